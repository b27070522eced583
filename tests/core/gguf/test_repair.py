"""What rounding took is given back by an adapter: the best of its rank, stacked on a domain's, kept where it wins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidInput
from core.files import sha256_of
from core.gguf.compensation import compensate, compensations, rounded_layers
from core.gguf.inspect import inspect_gguf
from core.gguf.runtime import Runtime
from core.gguf.stacking import Pair, read_pairs, stacked, write_pairs
from core.gguf.weights import Weights
from core.tasks.context import TaskError
from core.tasks.repair_adapter import REPAIR_RANK
from tests.core.gguf.conftest import Outcome, run_task, save_random_adapter
from tests.models import build_tiny

DATA = Path("configs/starter_data/healthcare.jsonl")
SHAPING = {"system_prompt": "You are a careful health guide.", "seed": 42, "held_out_fraction": 0.2}
BASE = {"base_name": "tiny", "base_sha256": "b" * 64}
PROMPT = [1, 5, 9, 33, 7, 80, 12, 64]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model as a folder, F16 and Q2_K, and an adapter for it."""
    folder = tmp_path_factory.mktemp("repair")
    model = build_tiny("llama", folder / "model")
    found = {"model": model, "gguf": folder / "F16.gguf", "quantized": folder / "Q2_K.gguf"}
    run_task(folder / "runs" / "1", "convert", found["gguf"], {"name": "tiny"}, {"model": model})
    quantizing = {"name": "tiny", "type": "Q2_K"}
    run_task(folder / "runs" / "2", "quantize", found["quantized"], quantizing, {"gguf": found["gguf"]})
    (folder / "peft").mkdir()
    save_random_adapter(model, folder / "peft", strength=0.05)
    found["adapter"] = folder / "adapter.gguf"
    inputs = {"base": model, "adapter": folder / "peft"}
    run_task(folder / "runs" / "3", "adapter-convert", found["adapter"], {"domain": "healthcare", **BASE}, inputs)
    return found


def test_the_pair_is_the_nearest_of_its_rank_where_the_inputs_are() -> None:
    random = np.random.default_rng(3)
    error = random.normal(size=(96, 64)).astype(np.float32)
    importance = random.gamma(0.3, size=64).astype(np.float32) + 1e-3
    found = compensate(error, importance, 8, seed=1)
    scaled = error * np.sqrt(importance)
    best = float((np.linalg.svd(scaled, compute_uv=False)[8:] ** 2).sum())
    left = (error - found.pair.b @ found.pair.a) * np.sqrt(importance)
    assert float((left**2).sum()) == pytest.approx(found.after, rel=1e-3)
    assert best * 0.999 <= found.after <= best * 1.02
    assert found.before == pytest.approx(float((scaled**2).sum()), rel=1e-4)
    # Without the weights another pair is found, that serves these inputs less.
    blind = compensate(error, None, 8, seed=1).pair
    assert float((((error - blind.b @ blind.a) * np.sqrt(importance)) ** 2).sum()) > 1.02 * found.after


def test_of_full_rank_it_gives_back_the_whole_layer(tiny: dict[str, Path], tmp_path: Path) -> None:
    whole, rounded = Weights(tiny["gguf"]), Weights(tiny["quantized"], rounded=True)
    layers = rounded_layers(whole, rounded)
    assert len(layers) == 7 * int(whole.header.metadata["llama.block_count"])
    found = compensations(whole, rounded, layers, None, 10_000, seed=1)
    for tensor in layers:
        pair = found[tensor.name].pair
        error = whole.whole(whole.tensors[tensor.name]) - rounded.whole(tensor)
        assert np.abs(error).max() > 1e-3
        assert np.allclose(pair.b @ pair.a, error, atol=1e-5)
    # In the engine: with it the layers are those of the F16 file; only the vocabulary's matrices are still rounded.
    repair, mixed = tmp_path / "repair.gguf", tmp_path / "mixed.gguf"
    write_pairs(repair, "llama", {name: one.pair for name, one in found.items()}, {})
    mixed.write_bytes(tiny["gguf"].read_bytes())
    changed = Weights(mixed, "r+")
    for name in ("token_embd.weight", "output.weight"):
        tensor = changed.tensors[name]
        changed.put(tensor, 0, rounded.whole(rounded.tensors[name]))
    with Runtime(mixed, n_ctx=64, threads=1) as runtime:
        wanted = runtime.logits(PROMPT)
    with Runtime(tiny["quantized"], n_ctx=64, threads=1) as runtime:
        plain = runtime.logits(PROMPT)
        runtime.attach(repair)
        repaired = runtime.logits(PROMPT)
    assert np.linalg.norm(repaired - wanted) < 0.1 * np.linalg.norm(plain - wanted)


def test_two_adapters_on_top_of_one_another_do_what_both_do(tiny: dict[str, Path], tmp_path: Path) -> None:
    pairs, keys = read_pairs(tiny["adapter"])
    random = np.random.default_rng(5)
    name, alone = "blk.0.attn_q.weight", "blk.1.ffn_up.weight"
    extra = Pair(
        random.normal(size=(3, pairs[name].a.shape[1])).astype(np.float32),
        random.normal(size=(pairs[name].b.shape[0], 3)).astype(np.float32) * 1e-3,
    )
    both = stacked({key: pair for key, pair in pairs.items() if key != alone}, {name: extra, alone: pairs[alone]})
    assert both[name].rank == pairs[name].rank + 3
    assert np.allclose(both[name].b @ both[name].a, pairs[name].b @ pairs[name].a + extra.b @ extra.a, atol=1e-5)
    path = tmp_path / "both.gguf"
    write_pairs(path, "llama", both, keys)
    again, told = read_pairs(path)
    assert {key: value for key, value in told.items() if key.startswith("tara.")} == {
        key: value for key, value in keys.items() if key.startswith("tara.")
    }
    for key, pair in both.items():
        product = pair.b @ pair.a
        assert np.allclose(again[key].b @ again[key].a, product, atol=2e-3 * np.abs(product).max())
    # The same adapter written anew changes the logits as it did.
    write_pairs(tmp_path / "same.gguf", "llama", pairs, keys)
    with Runtime(tiny["gguf"], n_ctx=64, threads=1) as runtime:
        plain = runtime.logits(PROMPT)
        changes = []
        for adapter in (tiny["adapter"], tmp_path / "same.gguf"):
            runtime.attach(adapter, base_sha256=BASE["base_sha256"])
            changes.append(runtime.logits(PROMPT) - plain)
    assert np.linalg.norm(changes[0] - changes[1]) < 0.02 * np.linalg.norm(changes[0])


def repaired(tiny: dict[str, Path], folder: Path, rank: int, **inputs: Any) -> tuple[Outcome, Outcome]:
    """Both tasks, the second of a domain."""
    out = folder / "repair.gguf"
    made = run_task(
        folder / "runs" / "1", "repair", out, {"name": "tiny", **BASE, "rank": rank, "seed": 7},
        {"gguf": tiny["gguf"], "quantized": tiny["quantized"]},
    )  # fmt: skip
    params = {"domain": "healthcare", **BASE, "domains": {"healthcare": SHAPING}, "sequence_length": 96}
    files = {**tiny, "repair": out, "data": DATA.absolute(), **inputs}
    stacked_ = run_task(
        folder / "runs" / "2", "repair-adapter", folder / "both.gguf", {**params, "max_tokens": 60, "seed": 7}, files
    )
    return made, stacked_


def test_it_is_kept_where_it_wins_on_held_out_text(tiny: dict[str, Path], tmp_path: Path) -> None:
    made, found = repaired(tiny, tmp_path, 48)
    assert 0.5 < made.measurements["repaired_share", ""] < 1
    kl, before = (found.measurements[name, "healthcare"] for name in ("repaired_kl", "unrepaired_kl"))
    assert found.result["repaired"] is True
    assert kl < before
    meta = found.artifact["meta"]
    assert (meta["repaired"], meta["repair_rank"]) == (True, 48)
    assert "the repair is kept" in meta["why"]
    info = inspect_gguf(tmp_path / "both.gguf")
    assert info.metadata[REPAIR_RANK] == "48"
    assert info.metadata["tara.base.sha256"] == BASE["base_sha256"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_adapter_of_another_base_is_not_repaired(tiny: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    pairs, keys = read_pairs(tiny["adapter"])
    write_pairs(other, "llama", pairs, {**keys, "tara.base.sha256": "c" * 64})
    with pytest.raises(TaskError, match=r"other\.gguf is of another base than tiny"):
        repaired(tiny, tmp_path, 8, adapter=other)


def test_where_it_does_not_win_the_adapter_stays_byte_for_byte(tiny: dict[str, Path], tmp_path: Path) -> None:
    # Measured against itself the rounded model has nothing to win: any change is a loss.
    _, found = repaired(tiny, tmp_path, 8, gguf=tiny["quantized"])
    assert found.result["repaired"] is False
    assert found.measurements["unrepaired_kl", "healthcare"] == pytest.approx(0, abs=1e-5)
    assert found.artifact["sha256"] == sha256_of(tiny["adapter"])
    assert "left out" in found.artifact["meta"]["why"]


def test_a_file_without_rounded_layers_and_one_that_is_no_adapter_are_refused(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    params = {"name": "tiny", **BASE, "rank": 8, "seed": 7}
    inputs = {"gguf": tiny["gguf"], "quantized": tiny["gguf"]}
    with pytest.raises(TaskError, match=r"F16\.gguf has no rounded layer to repair"):
        run_task(tmp_path / "runs" / "1", "repair", tmp_path / "none.gguf", params, inputs)
    with pytest.raises(InvalidInput, match="is not a LoRA adapter"):
        read_pairs(tiny["gguf"])
    huge = Pair(np.full((1, 4), 1e9, dtype=np.float32), np.full((4, 1), 1e9, dtype=np.float32))
    with pytest.raises(InvalidInput, match="F16 cannot hold"):
        write_pairs(tmp_path / "huge.gguf", "llama", {"blk.0.attn_q.weight": huge}, {})
