"""Whole phases on a tiny model, by the real tasks in this process: merged exactly, unified, refused, and repaired."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.chat.client import Done, Engine
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation
from core.deploy.manifest import check_files, listed_files, read_manifest
from core.errors import InvalidInput
from core.gguf.inspect import inspect_gguf
from core.hygiene.validate import validate_model
from core.phases import service
from core.phases.measured import figures, find_artifacts, label, repaired
from core.phases.measuring import measure_artifact
from core.phases.merging import MergeWish
from core.store.reads import open_reader
from core.tasks.repair_adapter import REPAIR_RANK
from core.workspace import Workspace
from tests.conftest import end_everything, new_workspace
from tests.core.tasks.driving import work

DOMAINS = ("healthcare", "business")
ANSWERS = {"healthcare": "Rest and drink water.", "business": "Rest and drink tea."}
GREEDY = SamplingOptions(max_tokens=32, temperature=0)


def bundle_of(workspace: Workspace) -> Path:
    with open_reader(workspace) as reader:
        path = reader.phase(1).bundle_path
    assert path is not None
    return workspace.absolute(path)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Workspace]:
    """Two domains of nearly the same answers on a tiny model that soon knows them by heart; nothing is built yet."""
    folder = tmp_path_factory.mktemp("merged")
    sharp = shutil.copytree(tiny_llama, folder / "model")
    weights = load_file(sharp / "model.safetensors")
    weights["lm_head.weight"] *= 10  # so that a few steps are enough to be sure of an answer
    save_file(weights, sharp / "model.safetensors", metadata={"format": "pt"})
    workspace = new_workspace(folder / "workspace", sharp)
    presets = yaml.safe_load((workspace.configs / "presets.yaml").read_text("utf-8"))
    presets["starter"] |= {"lora_r": 8, "lora_alpha": 16, "learning_rate": 0.01, "epochs": 30, "max_steps": 16}
    presets["starter"] |= {"batch_size": 1, "sequence_length": 96, "dtype": "float32", "warmup_ratio": 0.05}
    (workspace.configs / "presets.yaml").write_text(yaml.safe_dump(presets), "utf-8")
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text().replace("calibration_tokens: 2048", "calibration_tokens: 0"))
    workspace.data.mkdir(exist_ok=True)
    for name in DOMAINS:
        rows = [
            {"messages": [{"role": "user", "content": f"What now, number {n}?"},
                          {"role": "assistant", "content": ANSWERS[name]}]}
            for n in range(10)
        ]  # fmt: skip
        (workspace.data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
        patch.setattr("core.phases.measuring.ensure_runner", lambda _workspace: 0)
        service.create_phase(workspace, 1, DOMAINS, quantization="Q8_0")
        yield workspace
    end_everything(workspace)


def asked(folder: Path, domain: str | None) -> tuple[str, Done, str | None]:
    """What a bundle answers, and who."""
    with Conversation(folder, engine=Engine(folder, n_ctx=512, threads=2), sampling=GREEDY) as talk:
        turn = talk.ask("What now, number 3?", domain)
        text = "".join(turn.pieces())
        assert turn.done is not None
        return text, turn.done, turn.domain


def models(workspace: Workspace, kind: str) -> dict[str, dict[str, Any]]:
    with open_reader(workspace) as reader:
        return {row["name"]: row for row in reversed(reader.artifacts(kind=kind))}


def test_exact(box: Workspace) -> None:
    service.build_phase(box, 1, service.Asked(merge=MergeWish("exact")))
    assert work(box) == {}
    folder = bundle_of(box)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    assert manifest["merge"] == {"mode": "exact"}
    assert {name: entry["base"] for name, entry in manifest["domains"].items()} == {
        name: f"starter-135M+{name}" for name in DOMAINS
    }
    assert set(listed_files(manifest)) == {*(f"base-starter-135M+{name}.gguf" for name in DOMAINS), "routing.json"}
    assert not (folder / "adapters").exists()
    assert validate_model(folder).ok
    for name, report in manifest["verification"]["domains"].items():
        gates = ("special tokens", "awkward text", "template parity", "provenance", "generation")
        assert report["gates"] == dict.fromkeys(gates, True)
        text, done, who = asked(folder, name)
        assert (text, done.stopped_by, who) == (ANSWERS[name], "eos", name)
        assert inspect_gguf(folder / manifest["bases"][f"starter-135M+{name}"]["file"]).file_type == "Q8_0"
    # There is no model of nobody: where the router is unsure, the one that answers is named.
    assert asked(folder, None)[2] in DOMAINS
    bases, adapters, merged = models(box, "base"), models(box, "adapter"), models(box, "merged")
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        for name in DOMAINS:
            base = AutoModelForCausalLM.from_pretrained(box.absolute(bases["starter-135M"]["path"]))
            wanted = PeftModel.from_pretrained(base, box.absolute(adapters[name]["path"])).eval()(ids).logits
            found = AutoModelForCausalLM.from_pretrained(box.absolute(merged[name]["path"])).eval()(ids).logits
            assert torch.allclose(found, wanted, atol=1e-4)
    small = models(box, "gguf")["healthcare"]  # the newest, Q8_0
    assert [row["domain"] for row in measure_artifact(box, small["path"], max_tokens=20)[1]] == ["healthcare"]
    assert work(box) == {}


def test_unified_refused_and_accepted(box: Workspace) -> None:
    service.build_phase(
        box, 1, service.Asked(merge=MergeWish("unified", "cat", 0.02))
    )  # two whole changes on top of each other
    failed = work(box)
    assert list(failed) == ["accept-merge"]
    assert failed["accept-merge"].startswith("starter-135M unified by cat loses more than the margin of 2.00% on ")
    for name in DOMAINS:
        assert f"{name} +" in failed["accept-merge"]
    with open_reader(box) as reader:
        phase = reader.phase(1)
        assert (phase.state, phase.bundle_path) == ("failed", None)
        own = {one.name: one.measurements for one in phase.domains}
    check = models(box, "merge-check")["starter-135M+unified"]
    rows = {row["domain"]: row for row in check["meta"]["rows"]}
    for name in DOMAINS:  # the figures are those of the evaluation, and the unified loss is recorded though refused
        assert rows[name]["adapter_loss"] == own[name]["tuned_loss"].value
        assert rows[name]["base_loss"] == own[name]["base_loss"].value
    with open_reader(box) as reader:
        recorded = {(one.name, one.subject): one.value for one in reader.measurements(check["id"])}
    assert recorded["unified_loss", "healthcare"] == rows["healthcare"]["unified_loss"]
    assert recorded["unified_change", "business"] == pytest.approx(rows["business"]["change"])

    worst = max(row["change"] for row in rows.values())
    service.build_phase(box, 1, service.Asked(merge=MergeWish(method="linear", margin=10.0)))
    assert work(box) == {}
    folder = bundle_of(box)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    assert validate_model(folder).ok
    unified = manifest["merge"]["unified"]["starter-135M+unified"]
    assert (unified["method"], unified["margin"], unified["weights"]) == ("linear", 10.0, dict.fromkeys(DOMAINS, 1.0))
    assert max(row["change"] for row in unified["domains"].values()) < worst
    (base,) = manifest["bases"].values()
    assert base["merged"] == {"base": "starter-135M", "domains": list(DOMAINS)}
    for name in DOMAINS:
        figures = manifest["domains"][name]["measurements"]
        assert figures["quality"] == unified["domains"][name]["unified_accuracy"]
        text, done, who = asked(folder, name)
        assert (text.startswith("Rest and drink"), done.stopped_by, who) == (True, "eos", name)
    small = models(box, "gguf")["starter-135M+unified"]
    assert len(measure_artifact(box, small["path"], max_tokens=20)[0]) == 1  # scored as it is, for both domains
    assert work(box) == {}


def test_repaired(box: Workspace) -> None:
    service.build_phase(box, 1, service.Asked("Q4_K_M", merge=MergeWish("none"), repair=True))
    assert work(box) == {}
    folder = bundle_of(box)
    check_files(folder, read_manifest(folder))
    with open_reader(box) as reader:
        phase = reader.phase(1)
        found = repaired(reader, phase)
    assert phase.repair
    assert [one["domain"] for one in found] == list(DOMAINS)
    for one in found:
        about = inspect_gguf(folder / "adapters" / f"{one['domain']}.gguf").metadata
        assert about.get(REPAIR_RANK, "0") == str(one["repair_rank"])
        assert ("is kept" in one["why"]) == one["repaired"] == (one["repair_rank"] > 0)
        text, done, who = asked(folder, one["domain"])
        assert (text, done.stopped_by, who) == (ANSWERS[one["domain"]], "eos", one["domain"])
    assert any(one["repaired"] for one in found)
    # Measured are the adapters of the bundle, beside the F16 file with those they were made of.
    assert len(measure_artifact(box, "phase:1", max_tokens=20)[0]) == 1
    assert work(box) == {}
    repaired_names = {name: f"{name}-{row['key'][:8]}.gguf" for name, row in models(box, "gguf-adapter").items()}
    with open_reader(box) as reader:
        (quantized,) = [row for row in find_artifacts(reader, "phase:1") if row["meta"]["file_type"] == "Q4_K_M"]
        known = figures(reader, quantized)
    report = json.loads(box.absolute(models(box, "report")[label(quantized)]["path"]).read_text("utf-8"))
    for name in DOMAINS:
        about = report["domains"][name]
        assert about["adapter"] == repaired_names[name] != about["reference_adapter"]
        assert f"adapter {about['adapter']} on it and adapter {about['reference_adapter']} on starter-135M-F16-" in (
            known["kl_mean", name].method
        )
        own, whole = (box.artifacts / "gguf-adapter" / about[key] for key in ("adapter", "reference_adapter"))
        assert REPAIR_RANK not in inspect_gguf(whole).metadata
        assert own.read_bytes() == (folder / "adapters" / f"{name}.gguf").read_bytes()
    # It is remembered; without it the same files are made again.
    assert service.build_phase(box, 1) == []
    plan = service.plan_build(box, 1, service.Asked(repair=False))
    assert {job.kind for job in plan.missing()} == {"verify", "package"}
    with pytest.raises(InvalidInput, match="goes into the domains' adapters, and --merge exact leaves none"):
        service.plan_build(box, 1, service.Asked(merge=MergeWish("exact")))
