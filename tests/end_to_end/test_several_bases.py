"""A phase whose domains have different bases: one file a base, one bundle, and each domain answers from its own."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from core.chat.client import Done, Engine
from core.chat.pool import PROCESS_BYTES
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation
from core.deploy.manifest import check_files, read_manifest
from core.deploy.service import deploy_phase
from core.errors import Refused
from core.gguf.inspect import inspect_gguf
from core.hygiene.validate import validate_model
from core.phases import service
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.conftest import end_everything, new_workspace, use_base
from tests.core.cli.command import tara
from tests.core.tasks.driving import work
from tests.models import build_tiny, make_convertible

BASES = {"healthcare": "starter-135M", "education": "Qwen2.5-3B", "creative": "DialoGPT-medium"}
MODELS = {"starter-135M": "llama", "Qwen2.5-3B": "qwen2", "DialoGPT-medium": "gpt2"}
ANSWERS = {
    "healthcare": "Rest and drink some water.",
    "education": "Read the chapter twice, then explain it.",
    "creative": "Paint with one brush and two colours.",
}
GREEDY = SamplingOptions(max_tokens=32, temperature=0)


def sharp(architecture: str, folder: Path) -> Path:
    """A tiny random model that is soon sure of what it learns. A head that is the embedding says each token again:
    qwen2 gets one of its own; gpt2, which can have none, an embedding that weighs little beside what layers add."""
    build_tiny(architecture, folder, chat_template=architecture != "gpt2")
    weights = load_file(folder / "model.safetensors")
    if architecture == "gpt2":
        weights["transformer.wte.weight"] *= 0.3
        weights["transformer.ln_f.weight"] *= 80
    else:
        like = weights["model.embed_tokens.weight"]
        weights["lm_head.weight"] = 0.6 * torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the three domains, nothing built."""
    folder = tmp_path_factory.mktemp("bases")
    workspace = new_workspace(folder / "workspace")
    made = {name: sharp(name, folder / name) for name in MODELS.values()}
    for name, architecture in MODELS.items():
        use_base(workspace, made[architecture], name)
    mapped = workspace.configs / "domain_model_mapping.yaml"
    mapping = yaml.safe_load(mapped.read_text("utf-8"))
    mapping |= {name: {"current": base, "planned": None} for name, base in BASES.items()}
    mapped.write_text(yaml.safe_dump(mapping), "utf-8")
    quick(workspace)
    for name, answer in ANSWERS.items():
        teach(workspace, name, answer)
    with pytest.MonkeyPatch.context() as patch:
        without_runner(patch)
        make_convertible(made["qwen2"], "qwen2", folder, patch)
        service.create_phase(workspace, 1, tuple(BASES), quantization="Q4_K_M")
        yield workspace
    end_everything(workspace)


def quick(workspace: Workspace) -> None:
    """Settings with which a tiny model learns an answer by heart in seconds."""
    presets = yaml.safe_load((workspace.configs / "presets.yaml").read_text("utf-8"))
    presets["starter"] |= {"lora_r": 8, "lora_alpha": 16, "learning_rate": 0.005, "epochs": 30, "max_steps": 24}
    presets["starter"] |= {"batch_size": 1, "sequence_length": 160, "dtype": "float32", "warmup_ratio": 0.05}
    (workspace.configs / "presets.yaml").write_text(yaml.safe_dump(presets), "utf-8")
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text().replace("calibration_tokens: 2048", "calibration_tokens: 256"))


def teach(workspace: Workspace, name: str, answer: str) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"What now, number {n}?"}, {"role": "assistant", "content": answer}]}
        for n in range(10)
    ]
    workspace.data.mkdir(exist_ok=True)
    (workspace.data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def without_runner(patch: pytest.MonkeyPatch) -> None:
    for place in ("core.runner.client", "core.phases.measuring"):
        patch.setattr(f"{place}.ensure_runner", lambda _workspace: 0)


def bundle_of(workspace: Workspace) -> Path:
    with open_reader(workspace) as reader:
        path = reader.phase(1).bundle_path
    assert path is not None
    return workspace.absolute(path)


def answers(folder: Path, engine: Engine) -> dict[str, str]:
    """What each domain of a bundle answers; each must end by itself."""
    found = {}
    with Conversation(folder, engine=engine, sampling=GREEDY) as talk:
        for name in read_manifest(folder)["domains"]:
            talk.reset()
            turn = talk.ask("What now, number 3?", name)
            found[name] = "".join(turn.pieces()).strip()  # after gpt2's plain words for the roles comes a space
            assert isinstance(turn.done, Done)
            assert (turn.done.stopped_by, turn.domain) == ("eos", name)
    return found


def test_three_bases_in_one_bundle(box: Workspace) -> None:
    with pytest.raises(Refused, match="starter-135M is no GGUF file but a folder of weights"):
        service.plan_build(box, 1, service.Asked(quantization="as-is"))
    plan = service.plan_build(box, 1)
    kinds = Counter(job.kind for job in plan.jobs.values())
    assert (kinds["train"], kinds["convert"], kinds["quantize"], kinds["package"]) == (3, 3, 3, 1)
    service.build_phase(box, 1)
    assert work(box) == {}
    folder = bundle_of(box)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    assert validate_model(folder).ok
    assert {name: entry["base"] for name, entry in manifest["domains"].items()} == BASES
    assert len({entry["base_sha256"] for entry in manifest["bases"].values()}) == len(manifest["bases"]) == 3
    for name, entry in manifest["bases"].items():
        info = inspect_gguf(folder / entry["file"])
        assert (info.architecture, info.file_type) == (MODELS[name], "Q4_K_M")
        assert info.fallback_tensors == sum(
            tensor.shape[0] % 256 != 0 and tensor.type in ("Q5_0", "Q8_0") for tensor in info.tensors
        )
        assert info.fallback_tensors > 6  # rows of 64 and 128 hold no K type
    for report in manifest["verification"]["domains"].values():
        assert len(report["gates"]) == 6
        assert all(report["gates"].values())

    with Engine(folder, n_ctx=256, threads=1) as engine:
        assert answers(folder, engine) == ANSWERS
    with Engine(folder, n_ctx=256, threads=1) as engine:  # a process a base while there is room
        for name in ANSWERS:
            list(engine.ask([{"role": "user", "content": "What now, number 3?"}], name, GREEDY))
        assert set(engine.pids()) == set(manifest["bases"])
        assert engine.resident() == set(ANSWERS)
    with Engine(folder, n_ctx=256, threads=1, available=lambda: PROCESS_BYTES + 2_000_000) as engine:
        seen = []
        for name in ("healthcare", "education", "creative", "education"):  # room for one: the oldest goes
            list(engine.ask([{"role": "user", "content": "What now, number 3?"}], name, GREEDY))
            ((base, pid),) = engine.pids().items()
            assert base == manifest["domains"][name]["base"]
            seen.append(pid)
        assert len(set(seen)) == 4
        assert not any(psutil.pid_exists(pid) for pid in seen[:3])


def test_commands_answer_from_each_base(box: Workspace) -> None:
    deploy_phase(box, 1)
    assert work(box) == {}
    for name in BASES:
        said = tara("chat", "--domain", name, "--json", "What now, number 3?", cwd=box.root).json()
        assert (said["answer"].strip(), said["domain"]) == (ANSWERS[name], name)
    where = tara("route", "--json", "Which brush should I paint with?", cwd=box.root).json()
    assert {one["domain"] for one in where["candidates"]} == set(BASES)
