"""The job that unifies: what it writes equals the sum it says, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.files import check_manifest, hash_json
from core.tasks import unify
from core.tasks.context import Context, TaskError
from tests.core.tasks.driving import make_base, only
from tests.models import build_tiny

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
Spec = dict[str, tuple[int, int]]


def write_adapter(folder: Path, base: Path, shapes: Spec, seed: int, *, rank: int = 3, **config: Any) -> Path:
    """A random adapter that says which base it belongs to."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, columns, generator=random) / 8
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, rank, generator=random) / 8
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    identity = json.loads((base / "tara.json").read_text())
    (folder / "tara.json").write_text(json.dumps({"base": {"name": identity["name"], "sha256": identity["sha256"]}}))
    return folder


def run(folder: Path, base: Path, adapters: dict[str, Path], **params: Any) -> tuple[Path, list[dict[str, Any]]]:
    """Run the job once; its artifact and events."""
    params = {"name": "tiny+unified", "base_name": "tiny", "weights": dict.fromkeys(adapters, 1.0), **params}
    run_dir = folder / "runs" / hash_json([params, sorted(adapters)])[:8]
    run_dir.mkdir(parents=True)
    out = folder / "artifacts" / "merged" / run_dir.name
    spec = {
        "job_id": 1, "kind": "unify", "attempt": 1, "key": "0" * 64, "workspace": str(folder), "title": "unify",
        "params": params, "out": str(out), "threads": 2,
        "inputs": {"base": str(base), "adapters": {name: str(path) for name, path in adapters.items()}},
    }  # fmt: skip
    (run_dir / "spec.json").write_text(json.dumps(spec))
    unify.run(Context(run_dir))
    return out, [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), tiny_llama)


def true_delta(adapter: Path, name: str, scale: float) -> torch.Tensor:
    halves = load_file(adapter / "adapter_model.safetensors")
    a, b = (halves[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
    return scale * (b @ a)


def test_the_sum_is_exact_where_adapters_change_different_weights(tmp_path: Path, base: Path) -> None:
    adapters = {
        "music": write_adapter(tmp_path / "music", base, {Q: (64, 64), DOWN: (64, 128)}, 1),
        "cooking": write_adapter(tmp_path / "cooking", base, {Q: (64, 64)}, 2, rank=4, use_rslora=True),
    }
    weights = {"music": 1.0, "cooking": 0.5}
    out, events = run(tmp_path, base, adapters, method="cat", weights=weights, rank=0, scale=1.0)
    check_manifest(out)
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert list(after) == list(before)
    both = true_delta(adapters["music"], Q, 2.0) + 0.5 * true_delta(adapters["cooking"], Q, 3.0)  # 6/3; 6/sqrt(4)
    assert torch.allclose(after[f"{Q}.weight"].double(), before[f"{Q}.weight"].double() + both, atol=1e-6)
    alone = true_delta(adapters["music"], DOWN, 2.0)
    assert torch.allclose(after[f"{DOWN}.weight"].double(), before[f"{DOWN}.weight"].double() + alone, atol=1e-6)
    changed = {f"{Q}.weight", f"{DOWN}.weight"}
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - changed)
    assert only(events, "result")["values"] == {
        "changed_weights": 2, "base": "tiny", "method": "cat", "domains": 2
    }  # fmt: skip
    about = json.loads((out / "tara.json").read_text())
    assert set(about["merged"]["adapters_sha256"]) == set(adapters)
    assert about["merged"]["recipe"] == {"method": "cat", "weights": weights, "rank": 0, "scale": 1.0}
    assert "sha256" not in about


@pytest.mark.parametrize("method", ["ties", "dare", "linear", "cat"])
def test_the_same_request_makes_the_same_bytes(tmp_path: Path, base: Path, method: str) -> None:
    adapters = {
        name: write_adapter(tmp_path / name, base, {Q: (64, 64)}, seed)
        for seed, name in enumerate(("music", "cooking"))
    }
    own = {"dare": {"drop": 0.5, "seed": 3}, "ties": {"density": 0.3}, "cat": {"rank": 2}}.get(method, {})
    first, events = run(tmp_path / "one", base, adapters, method=method, **own)
    second, _ = run(tmp_path / "two", base, adapters, method=method, **own)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    energy = only(events, "artifact")["meta"].get("least_energy")
    assert (0 < energy < 1) if method == "cat" else energy is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"use_dora": True}, r"cooking uses DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"cooking uses layers trained whole \(modules_to_save"),
        ({"bias": "all"}, r"cooking uses trained biases"),
        ({"alpha_pattern": {"q_proj": 3}}, r"cooking uses .*alpha_pattern"),
    ],
)
def test_more_than_plain_lora_is_refused(tmp_path: Path, base: Path, config: dict[str, Any], expected: str) -> None:
    adapters = {
        "music": write_adapter(tmp_path / "music", base, {Q: (64, 64)}, 1),
        "cooking": write_adapter(tmp_path / "cooking", base, {Q: (64, 64)}, 2, **config),
    }
    with pytest.raises(TaskError, match=expected):
        run(tmp_path, base, adapters, method="ties")
    assert not (tmp_path / "artifacts").exists()


def test_an_adapter_of_another_base_is_refused_with_both_names(tmp_path: Path, base: Path) -> None:
    other = make_base(tmp_path, build_tiny("llama", tmp_path / "model", seed=1), "other")
    adapters = {
        "music": write_adapter(tmp_path / "music", base, {Q: (64, 64)}, 1),
        "cooking": write_adapter(tmp_path / "cooking", other, {Q: (64, 64)}, 2),
    }
    with pytest.raises(TaskError, match=r"cooking was trained on other \(.*not on tiny \("):
        run(tmp_path, base, adapters, method="ties")


def test_a_weight_that_the_base_lacks_or_has_in_another_shape_is_refused(tmp_path: Path, base: Path) -> None:
    music = write_adapter(tmp_path / "music", base, {Q: (64, 64)}, 1)
    stranger = write_adapter(tmp_path / "stranger", base, {"model.layers.9.mlp.down_proj": (64, 128)}, 2)
    with pytest.raises(TaskError, match=r"stranger changes model\.layers\.9.*which .* does not have"):
        run(tmp_path, base, {"music": music, "cooking": stranger}, method="linear")
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    wide = write_adapter(tmp_path / "wide", base, {Q: (64, 72)}, 2)
    with pytest.raises(TaskError, match=r"music and wide do not fit each other"):
        run(tmp_path / "other", base, {"music": music, "wide": wide}, method="linear")
