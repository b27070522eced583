"""Checkpoints of trainings done elsewhere: found in their layouts, each judged, a domain's newest good one taken."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.catalog.bases import locate
from core.catalog.config import config_of
from core.errors import InvalidInput, Refused
from core.phases import service
from core.phases.old_layouts import Found, domain_of, import_checkpoints
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.conftest import use_base
from tests.core.hygiene.folders import LLAMA_CONFIG, adapter_tensors, edit_json, write_adapter, write_model
from tests.imitate import contents, tree
from tests.models import embedded_gguf

PHASE_FOLDER = "meetara_trinity_phase_efficient_core_processing"
PICKLE = b"\x80\x04\x95\x00this would run code\x00."


def trainer_checkpoint(run: Path, step: int, *, of: int = 400, told: int | None = None, **config: Any) -> Path:
    """A checkpoint as a Hugging Face Trainer with a PEFT model leaves it, in small."""
    folder = write_adapter(run / f"checkpoint-{step}", **config)
    state = {"global_step": step if told is None else told, "max_steps": of, "epoch": 1.0, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(PICKLE)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def tiny(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace whose starter base is the tiny llama that the adapters are made for."""
    base = write_model(tmp_path / "owner" / "tiny-llama")
    use_base(workspace, base)
    mapping = workspace.configs / "model_mapping.json"
    config = json.loads(mapping.read_text())
    config["models"]["starter-135M"] |= {"kind": "hub", "hub_id": "owner/tiny-llama"}
    del config["models"]["starter-135M"]["path"]
    mapping.write_text(json.dumps(config))
    shutil.copytree(base, workspace.root / "models" / "owner" / "tiny-llama")
    return workspace


def by_name(found: list[Found]) -> dict[str, Found]:
    return {f"{one.run.name}/{one.path.name}" if one.step is not None else one.path.name: one for one in found}


def adapters(workspace: Workspace) -> dict[str, str | None]:
    with open_reader(workspace) as reader:
        return {view.name: view.adapter_path for view in reader.domains()}


DAMAGE: dict[str, Any] = {
    "the weights cut": (
        lambda one: os.truncate(one / "adapter_model.safetensors", 100),
        "adapter_model.safetensors is cut off",
    ),
    "not a number": (
        lambda one: save_file(
            {name: np.full_like(value, np.nan) for name, value in adapter_tensors().items()},
            one / "adapter_model.safetensors",
        ),
        "holds NaN or infinite numbers",
    ),
    "weights as a pickle": (
        lambda one: (one / "adapter_model.safetensors").rename(one / "adapter_model.bin"),
        "its weights are a pickle (adapter_model.bin), which can run code when it is opened",
    ),
    "no weights, made up for a dashboard": (
        lambda one: (one / "adapter_model.safetensors").unlink(),
        "it holds no weights (adapter_model.safetensors)",
    ),
    "a whole model": (
        lambda one: (one / "adapter_model.safetensors").rename(one / "model.safetensors"),
        "it holds a whole model (model.safetensors), not an adapter",
    ),
    "no config": (lambda one: (one / "adapter_config.json").unlink(), "there is no adapter_config.json"),
    "the config of another program": (
        lambda one: (one / "adapter_config.json").write_text('{"domain": "healthcare"}'),
        "the adapter's kind (peft_type) is missing (and ",
    ),
    "DoRA": (lambda one: edit_json(one / "adapter_config.json", use_dora=True), "DoRA (a magnitude vector)"),
    "rank-stabilised": (lambda one: edit_json(one / "adapter_config.json", use_rslora=True), "use_rslora"),
    "whole modules": (
        lambda one: edit_json(one / "adapter_config.json", modules_to_save=["embed_tokens"]),
        "fully trained modules (embed_tokens)",
    ),
    "another base": (
        lambda one: edit_json(one / "adapter_config.json", base_model_name_or_path="microsoft/DialoGPT-medium"),
        "the adapter was trained on microsoft/DialoGPT-medium, not on starter-135M",
    ),
    "other sizes": (
        lambda one: save_file(
            {
                name: (np.ones((2, 6), np.float32) if "lora_A" in name else np.ones((8, 2), np.float32))
                for name in adapter_tensors(("self_attn.q_proj",))
            }
            | adapter_tensors(("self_attn.v_proj",)),
            one / "adapter_model.safetensors",
        ),
        "sizes do not fit the base",
    ),
    "nothing learnt": (
        lambda one: save_file(
            {name: value * (0 if "lora_B" in name else 1) for name, value in adapter_tensors().items()},
            one / "adapter_model.safetensors",
        ),
        "every lora_B in it is zero",
    ),
    "another step": (
        lambda one: edit_json(one / "trainer_state.json", global_step=134),
        "its step is told in different ways: folder 300, trainer_state.json 134",
    ),
    "no trainer state": (lambda one: (one / "trainer_state.json").unlink(), "there is no trainer_state.json"),
    "a trainer state in UTF-16": (
        lambda one: (one / "trainer_state.json").write_text('{"global_step": 300}', "utf-16"),
        "trainer_state.json is not UTF-8 text",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_checkpoint_is_refused_with_its_reason_and_the_one_before_is_taken(
    tiny: Workspace, tmp_path: Path, name: str
) -> None:
    run = tmp_path / "old" / "models" / "healthcare" / PHASE_FOLDER
    for step in (100, 200, 300):
        trainer_checkpoint(run, step)
    damage, reason = DAMAGE[name]
    damage(run / "checkpoint-300")
    before = tree(tmp_path / "old")
    found = by_name(import_checkpoints(tiny, tmp_path / "old"))
    assert tree(tmp_path / "old") == before
    bad = found[f"{PHASE_FOLDER}/checkpoint-300"]
    assert (bad.good, bad.taken) == (False, False)
    assert reason in bad.reason
    taken = found[f"{PHASE_FOLDER}/checkpoint-200"]
    assert (taken.good, taken.taken, taken.unfinished) == (True, True, "step 200 of 400")
    assert found[f"{PHASE_FOLDER}/checkpoint-100"].reason == f"not taken: step 200 in {PHASE_FOLDER} is newer"
    assert adapters(tiny) == {"healthcare": taken.adapter}


def test_the_owners_layouts_name_their_domains(tiny: Workspace, tmp_path: Path) -> None:
    old = tmp_path / "old"
    trainer_checkpoint(old / "models" / "healthcare" / PHASE_FOLDER, 40)
    trainer_checkpoint(old / "models" / "adapters" / "business_qwen2.5-3b", 120, of=120)
    trainer_checkpoint(old / "models" / "nobody" / PHASE_FOLDER, 10)
    trainer_checkpoint(old / "out", 10)
    (old / "models" / "adapters" / "trinity_link").symlink_to("../nowhere")
    found = import_checkpoints(tiny, old)
    assert {(one.domain, one.step, one.taken, one.unfinished) for one in found} == {
        ("healthcare", 40, True, "step 40 of 400"),
        ("business", 120, True, None),
        (None, 10, False, None),
    }
    reasons = {one.path.parent.parent.name: one.reason for one in found if one.domain is None}
    assert reasons["nobody"] == "its folder names nobody, no domain here: --domain NAME says it"
    assert reasons["old"].startswith("its domain is not named")
    with open_reader(tiny) as reader:
        metas = {row["domain"]: row["meta"] for row in reader.artifacts(kind="adapter")}
    assert metas["healthcare"] | {"imported_from": ""} == {
        "base": "starter-135M", "imported_from": "", "layout": "models/<domain>", "old_step": 40, "old_steps": 400,
        "unfinished": "step 40 of 400", "weights_only": True,
    }  # fmt: skip
    assert metas["business"]["unfinished"] is None
    manifest = json.loads((tiny.absolute(str(adapters(tiny)["healthcare"])) / "MANIFEST.json").read_text())
    assert (manifest["old_step"], manifest["imported_from"]) == (40, metas["healthcare"]["imported_from"])
    assert not list(tiny.artifacts.rglob("*.pt"))  # no pickle came along


def test_layouts_by_path() -> None:
    domains = {"legal": 1, "legal_advice": 1, "models": 1}
    known = {
        "/a/models/legal/x/y/checkpoint-3": "legal",
        "/a/models/adapters/legal_qwen/checkpoint-3": "legal",
        "/a/models/adapters/legal_advice_qwen_3b/checkpoint-3": "legal_advice",
        "/models/old/models/legal/checkpoint-3": "legal",
        "/a/models/adapters/legalese/checkpoint-3": None,
        "/a/models/checkpoint-3": None,
        "/a/legal/checkpoint-3": None,
    }
    assert {path: domain_of(Path(path), domains)[0] for path in known} == known
    assert domain_of(Path("/a/models/adapters/legalese/checkpoint-3"), domains)[2] == "legalese"


def test_one_checkpoint_of_a_plain_trainer_needs_its_domain(tiny: Workspace, tmp_path: Path) -> None:
    folder = trainer_checkpoint(tmp_path / "out", 25, of=25)
    (found,) = import_checkpoints(tiny, folder)
    assert (found.good, adapters(tiny)) == (False, {})
    (found,) = import_checkpoints(tiny, folder, domain="healthcare", dry_run=True)
    assert (found.taken, found.reason, adapters(tiny)) == (True, "it would be taken", {})
    (found,) = import_checkpoints(tiny, folder, domain="healthcare")
    assert adapters(tiny) == {"healthcare": found.adapter}
    before = contents(tiny)
    (again,) = import_checkpoints(tiny, folder, domain="healthcare")
    assert (again.taken, again.reason) == (True, "it was imported before")
    assert contents(tiny) == before


def test_a_domain_keeps_its_adapter_unless_it_is_to_be_replaced(tiny: Workspace, tmp_path: Path) -> None:
    first = trainer_checkpoint(tmp_path / "first", 10)
    second = trainer_checkpoint(tmp_path / "second", 20, lora_alpha=8)
    (one,) = import_checkpoints(tiny, first, domain="healthcare")
    (other,) = import_checkpoints(tiny, second, domain="healthcare")
    assert (other.good, other.taken) == (True, False)
    assert f"healthcare has an adapter ({one.adapter})" in other.reason
    (other,) = import_checkpoints(tiny, second, domain="healthcare", replacing=True)
    assert adapters(tiny) == {"healthcare": other.adapter}


def test_not_while_the_domain_is_trained(tiny: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
    ids = service.train_domain(tiny, "business")
    (found,) = import_checkpoints(tiny, trainer_checkpoint(tmp_path / "out", 5), domain="business")
    assert f"not taken: job {ids[1]} trains business (queued)" in found.reason


def test_what_a_training_left_at_its_end_goes_first(tiny: Workspace, tmp_path: Path) -> None:
    run = tmp_path / "models" / "healthcare" / "out"
    trainer_checkpoint(run, 300)
    write_adapter(run)
    found = by_name(import_checkpoints(tiny, tmp_path))
    assert (found["out"].taken, found["out"].step, found["out"].unfinished) == (True, None, None)
    assert found["out/checkpoint-300"].reason == "not taken: the adapter at the training's end is newer"


def test_of_two_trainings_the_one_written_last_counts(tiny: Workspace, tmp_path: Path) -> None:
    early = trainer_checkpoint(tmp_path / "models" / "healthcare" / "early", 390)
    late = trainer_checkpoint(tmp_path / "models" / "healthcare" / "late", 60)
    os.utime(early / "adapter_model.safetensors", (1_000, 1_000))
    found = by_name(import_checkpoints(tiny, tmp_path))
    assert found["late/checkpoint-60"].taken
    assert str(late) in str(found["late/checkpoint-60"].path)
    assert found["early/checkpoint-390"].reason == "not taken: step 60 in late is newer"


def test_a_domain_asked_for_narrows_a_tree(tiny: Workspace, tmp_path: Path) -> None:
    for name in ("healthcare", "business"):
        trainer_checkpoint(tmp_path / "models" / name / "out", 60)
    found = {one.domain: one for one in import_checkpoints(tiny, tmp_path, domain="business")}
    assert found["business"].taken
    assert found["healthcare"].reason == "it is of healthcare, not of business"
    assert set(adapters(tiny)) == {"business"}


def test_a_place_without_checkpoints_is_said(tiny: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="holds no checkpoint-N folder"):
        import_checkpoints(tiny, tmp_path / "empty")
    with pytest.raises(InvalidInput, match="there is no folder"):
        import_checkpoints(tiny, tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="did you mean 'healthcare'"):
        import_checkpoints(tiny, tmp_path, domain="healthcar")


def test_sizes_of_a_gguf_base_are_read_from_its_header(workspace: Workspace) -> None:
    from core.catalog import load_catalog

    base = load_catalog(workspace).bases["starter-135M"]
    assert base.gguf_file == embedded_gguf().name
    assert config_of(locate(base, workspace)) == {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    }  # fmt: skip
    assert LLAMA_CONFIG["model_type"] == "llama"


def test_a_real_trainers_output_is_imported_and_can_be_planned(
    tiny_workspace: Workspace, tiny_llama: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    optimiser = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=1e-2)
    run = tmp_path / "models" / "adapters" / "healthcare_tiny-llama"
    for step in (1, 2):
        adapted(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        optimiser.step()
        folder = run / f"checkpoint-{step}"
        adapted.save_pretrained(folder)
        torch.save(optimiser.state_dict(), folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 2}))
    found = by_name(import_checkpoints(tiny_workspace, run))
    last = found["healthcare_tiny-llama/checkpoint-2"]
    assert (last.taken, last.unfinished) == (True, None), last
    copied = load_file(tiny_workspace.absolute(str(last.adapter)) / "adapter_model.safetensors")
    assert {name: value.tolist() for name, value in copied.items()} == {
        name: value.tolist() for name, value in load_file(run / "checkpoint-2" / "adapter_model.safetensors").items()
    }
    service.create_phase(tiny_workspace, 1, ["healthcare"])
    todo = {job.kind for job in service.plan_build(tiny_workspace, 1).missing()}
    assert "train" not in todo
    assert {"evaluate", "adapter-convert", "package"} <= todo
    with pytest.raises(Refused, match="uses an adapter from elsewhere"):
        service.train_domain(tiny_workspace, "healthcare")
