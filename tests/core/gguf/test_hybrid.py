"""A type per tensor: solved within the budget, of the size predicted, kept only where it loses less."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from core.errors import Refused
from core.gguf.candidates import TYPES, errors_of, offered
from core.gguf.header import TensorInfo
from core.gguf.imatrix import ImportanceMatrix, Statistic, read_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.metadata import COMPRESSION
from core.gguf.mixture import above_of, build, file_type_of, matrices_of, peer_of, solve_file, types_of
from core.gguf.paired import paired
from core.gguf.quantizer import QUANTIZATIONS, predicted_size, quantize
from core.gguf.rounding import rounding_error
from core.gguf.scoring import Text
from core.gguf.sensitivity import costs_of, divergence_at, groups_of, scored_texts, weighted
from core.gguf.weights import Weights
from core.hygiene.gguf_check import check_gguf
from core.tasks.context import TaskError
from tests.core.gguf.conftest import Outcome, Task, run_task
from tests.models import build_tiny

DATA = Path("configs/starter_data/healthcare.jsonl")
SHAPING = {"system_prompt": "You are a careful health guide.", "seed": 42, "held_out_fraction": 0.2}
DOMAINS = {"domains": {"healthcare": SHAPING}, "sequence_length": 128}
COSTS = {**DOMAINS, "name": "tiny", "target_bytes": None, "seed": 7}
PARAMS = {**COSTS, "type": "Q4_K_M", "max_tokens": 60}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The inputs of the task for a tiny random model."""
    folder = tmp_path_factory.mktemp("hybrid")
    model = build_tiny("llama", folder / "model")
    data = {"healthcare": str(DATA.absolute())}
    run_task(folder / "runs" / "1", "convert", folder / "F16.gguf", {"name": "tiny"}, {"model": model})
    inputs = {"base": model, "gguf": folder / "F16.gguf", "data": data}
    params = {**DOMAINS, "name": "tiny", "tokens": 200}
    run_task(folder / "runs" / "2", "imatrix", folder / "imatrix.gguf", params, inputs)
    found = {"gguf": folder / "F16.gguf", "imatrix": folder / "imatrix.gguf", "model": model, "data": data}
    costs = folder / "costs" / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.gguf.candidates.SAMPLE", 1 << 16)
        patch.setattr("core.tasks.held_out.PROBED", 32)
        patch.setattr("core.tasks.type_costs.groups_of", lambda tensors: [tuple(tensors[:5]), tuple(tensors[5:])])
        made = run_task(folder / "runs" / "3", "type-costs", costs, COSTS, found)
    assert made.progress[-1]["step"] == made.progress[-1]["total"]
    assert [path.name for path in costs.parent.iterdir()] == [costs.name]
    return {**found, "costs": costs}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors from fewer rows: nearly all of a tiny model is its vocabulary's matrices."""
    monkeypatch.setattr("core.gguf.candidates.SAMPLE", 1 << 16)


def test_rows_get_only_types_that_hold_them() -> None:
    of_32 = ("Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "F16")
    assert offered(576, with_importance=True) == of_32
    assert offered(1536, with_importance=True) == TYPES
    assert offered(100, with_importance=True) == ("F16",)
    hungry = ("IQ2_XXS", "IQ2_S", "Q2_K")
    assert offered(256, with_importance=True, types=hungry) == hungry
    assert offered(256, with_importance=False, types=hungry) == ("Q2_K",)


def test_layers_are_probed_in_bands_and_the_rest_alone() -> None:
    names = [f"blk.{layer}.{kind}.weight" for layer in range(12) for kind in ("attn_q", "ffn_up")]
    tensors = [TensorInfo(name, (32, 32), "F16", 2048, 0) for name in [*names, "token_embd.weight", "output.weight"]]
    groups = groups_of(tensors, bands=5)
    assert sorted(tensor.name for group in groups for tensor in group) == sorted(tensor.name for tensor in tensors)
    assert len(groups) == 5 + 5 + 1 + 1
    assert [tensor.name for tensor in groups[0]] == [f"blk.{layer}.attn_q.weight" for layer in range(3)]


def test_rows_are_read_and_written_as_they_are_stored(tiny: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny["gguf"].read_bytes())
    whole, changed = Weights(tiny["gguf"]), Weights(copy, "r+")
    tensor = whole.tensors["blk.1.ffn_down.weight"]
    theirs = {one.name: one for one in gguf.GGUFReader(tiny["gguf"]).tensors}[tensor.name].data.astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in whole.slabs(tensor)]), theirs)
    np.testing.assert_array_equal(whole.sample(tensor, 128 * 2), theirs[[0, -1]])
    changed.put(tensor, 3, theirs[:2])
    mine = np.concatenate([rows for _, rows in Weights(copy).slabs(tensor)])
    np.testing.assert_array_equal(mine, np.concatenate([theirs[:3], theirs[:2], theirs[5:]]))
    changed.copy_from(whole, tensor)
    assert copy.read_bytes() == tiny["gguf"].read_bytes()


def test_errors_are_those_of_rounding_and_samples_stand_for_the_whole(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, imatrix = Weights(tiny["gguf"]), read_imatrix(tiny["imatrix"])
    tensors = [source.tensors[name] for name in ("blk.0.ffn_down.weight", "output.weight")]
    told: list[tuple[int, str]] = []
    found = errors_of(source, tensors, imatrix, threads=2, on_tensor=lambda number, name: told.append((number, name)))
    assert told == [(1, tensors[0].name), (2, tensors[1].name)]
    rows = source.sample(tensors[0], 1 << 30)
    mean = imatrix.statistics[tensors[0].name].mean
    assert found[tensors[0].name]["Q5_1"] == pytest.approx(rounding_error(rows, "Q5_1", mean), rel=1e-6)
    assert found[tensors[0].name]["F16"] == 0.0
    monkeypatch.setattr("core.gguf.candidates.SAMPLE", 1 << 20)
    fewer = errors_of(source, tensors, imatrix, threads=1)
    for kind, error in found["output.weight"].items():
        assert fewer["output.weight"][kind] == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("quantization", ["Q2_K", "Q8_0"])
def test_a_mixture_has_the_types_and_the_size_it_was_solved_for(
    quantization: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    imatrix = read_imatrix(tiny["imatrix"])
    quantize(tiny["gguf"], tmp_path / "plain.gguf", quantization, threads=2, imatrix=imatrix)
    source, plain = inspect_gguf(tiny["gguf"]), inspect_gguf(tmp_path / "plain.gguf")
    tensors = matrices_of(source, types_of(plain))
    assert {tensor.name for tensor in tensors} == {tensor.name for tensor in source.tensors if len(tensor.shape) == 2}
    errors = errors_of(Weights(tiny["gguf"]), tensors, imatrix, threads=2)
    solved = solve_file(plain, tensors, errors, plain.bytes)
    made = build(tiny["gguf"], tmp_path / "mixture.gguf", solved, quantization, imatrix, threads=2)
    assert made.bytes <= plain.bytes
    assert abs(made.bytes - solved.bytes) < 200  # a few keys, where a hundredth is promised
    assert {tensor.name: tensor.type for tensor in made.tensors if tensor.name in solved.types} == solved.types
    assert (made.file_type, made.fallback_tensors, made.metadata[COMPRESSION]) == ("hybrid", 0, "hybrid")
    weights = dict.fromkeys(solved.types.values(), 0)
    for tensor in tensors:
        weights[solved.types[tensor.name]] += tensor.elements
    most = max(weights, key=lambda kind: weights[kind])
    assert made.metadata["general.file_type"] == file_type_of(most)
    assert not check_gguf(tmp_path / "mixture.gguf", "mixture.gguf")[0]
    mine = sum(errors[name][kind] for name, kind in solved.types.items())
    there = {tensor.name: tensor.type for tensor in plain.tensors}
    assert mine <= sum(errors[tensor.name][there[tensor.name]] for tensor in tensors)


def test_every_candidate_has_a_name_for_most_of_a_file() -> None:
    assert [file_type_of(kind) for kind in ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q3_K", "F16")] == [2, 15, 17, 18, 12, 1]
    assert all(file_type_of(kind) >= 0 for kind in TYPES)


def test_too_small_a_budget_names_the_least_size(tiny: dict[str, Any], tmp_path: Path) -> None:
    imatrix = read_imatrix(tiny["imatrix"])
    quantize(tiny["gguf"], tmp_path / "plain.gguf", "Q2_K", threads=2, imatrix=imatrix)
    plain = inspect_gguf(tmp_path / "plain.gguf")
    tensors = matrices_of(inspect_gguf(tiny["gguf"]), types_of(plain))
    errors = errors_of(Weights(tiny["gguf"]), tensors, imatrix, threads=2)
    with pytest.raises(Refused, match="too small") as refused:
        solve_file(plain, tensors, errors, 1_000_000)
    assert refused.value.hint is not None
    least = float(refused.value.hint.split()[5])
    assert solve_file(plain, tensors, errors, math.ceil(least * 1e6)).bytes <= least * 1e6


def test_the_peer_of_a_target_is_the_largest_plain_type_that_fits(tiny: dict[str, Any]) -> None:
    sizes = {name: predicted_size(tiny["gguf"], name).bytes for name in QUANTIZATIONS}
    assert peer_of(tiny["gguf"], sizes["Q8_0"] + 5_000_000) == "Q8_0"
    assert peer_of(tiny["gguf"], sizes["Q8_0"] - 1) == "Q5_K_M"
    assert peer_of(tiny["gguf"], 1) == min(sizes, key=lambda name: sizes[name])
    assert above_of(tiny["gguf"], sizes["Q8_0"] - 1) == "Q8_0"
    assert above_of(tiny["gguf"], sizes["Q4_K_M"]) == "Q5_K_M"
    assert above_of(tiny["gguf"], sizes["Q8_0"]) is None
    assert above_of(tiny["gguf"], 1) is None  # then the smallest, which is larger, is what it is held against


def test_what_a_group_costs_is_measured_on_a_changed_copy_that_is_gone_after(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    source, imatrix = Weights(tiny["gguf"]), read_imatrix(tiny["imatrix"])
    texts = [Text(tuple(range(50, 90)), (True,) * 40)]
    tensors = [tensor for tensor in source.tensors.values() if len(tensor.shape) == 2]
    groups = groups_of(tensors, bands=1)[-4:]
    tensors = [tensor for group in groups for tensor in group]
    errors = errors_of(source, tensors, imatrix, threads=2)
    told: list[int] = []
    costs = costs_of(
        tiny["gguf"], tmp_path / "scratch.gguf", groups, errors, imatrix, texts, threads=2, seed=1,
        on_group=lambda number, _: told.append(number),
    )  # fmt: skip
    assert told == list(range(1, len(groups) + 1))
    assert not (tmp_path / "scratch.gguf").exists()
    assert costs.keys() == {tensor.name for tensor in tensors}
    assert all(cost > 0 for cost in costs.values())
    # The head's rounding alone, by the engine's own quantizer: what its cost says, nearly.
    head = source.tensors["output.weight"]
    rest = {name: "F16" for name, tensor in source.tensors.items() if len(tensor.shape) == 2 and tensor is not head}
    quantize(
        tiny["gguf"], tmp_path / "head.gguf", "Q8_0", threads=2, imatrix=imatrix, types={**rest, head.name: "Q4_0"}
    )
    reference = scored_texts(tiny["gguf"], texts, threads=2, seed=1)
    there = float(np.concatenate(divergence_at(tmp_path / "head.gguf", texts, reference, threads=2)).mean())
    assert weighted(errors, costs)[head.name]["Q4_0"] == pytest.approx(there, rel=0.2)


def test_chance_does_not_choose() -> None:
    noise = np.random.default_rng(0).standard_normal(160)
    plain = np.abs(noise) + 0.1
    blocks = [at // 10 for at in range(160)]
    assert paired(plain - 0.01, plain, blocks).better
    assert not paired(plain + 0.01, plain, blocks).better
    assert not paired(plain + 0.5 * noise[::-1], plain, blocks).better
    assert not paired(plain[:1] - 0.01, plain[:1], blocks[:1]).better  # one position has no error to judge by


def judged(made: Outcome, out: Path) -> None:
    """What the task says of a file is what the file is, and the better one was kept."""
    info, meta, found = inspect_gguf(out), made.artifact["meta"], made.measurements
    assert (meta["types"], meta["file_type"], meta["compression"]) == (info.types, info.file_type, "hybrid")
    kept = found["kept", ""]
    assert kept == meta["kept"] == ("mixture" if info.file_type == "hybrid" else meta["plain_type"])
    assert found["bytes", ""] == info.bytes == found["mixture_bytes" if kept == "mixture" else "plain_bytes", ""]
    error = found["kl_difference_se", ""]
    assert (found["kl_difference", ""] + 2 * error < 0) == (kept == "mixture")
    difference = found["mixture_kl", ""] - found["plain_kl", ""]
    assert found["kl_difference", ""] == pytest.approx(difference, abs=1e-9)
    assert abs(found["predicted_bytes", ""] - found["mixture_bytes", ""]) < 0.01 * found["mixture_bytes", ""]


def beside(made: Outcome, quantization: str) -> None:
    """The next larger plain type is measured beside what is kept, and said to be better where it is."""
    meta, found = made.artifact["meta"], made.measurements
    assert meta["larger_type"] == quantization
    assert found["larger_bytes", ""] > found["bytes", ""]
    kept = found["mixture_kl" if meta["kept"] == "mixture" else "plain_kl", ""]
    assert found["larger_kl_difference", ""] == pytest.approx(found["larger_kl", ""] - kept, abs=1e-9)
    better = found["larger_kl_difference", ""] + 2 * found["larger_kl_difference_se", ""] < 0
    assert meta["larger_better"] == better
    more = (found["larger_bytes", ""] - found["bytes", ""]) / 1e6
    said = f"beside it {quantization}, {more:.2f} MB larger and above the target, is {'' if better else 'not '}better"
    assert said in meta["why"]


def test_the_task_keeps_what_it_says(tiny: dict[str, Any], task: Task, tmp_path: Path) -> None:
    out = tmp_path / "out" / "tiny.gguf"
    made = task("hybrid", out, PARAMS, tiny)
    judged(made, out)
    assert made.artifact["meta"].keys() & {"larger_type", "larger_better"} == set()  # its budget is the plain type's
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert made.progress[-1]["step"] == made.progress[-1]["total"]


def test_a_target_is_a_budget(tiny: dict[str, Any], task: Task, tmp_path: Path) -> None:
    target = predicted_size(tiny["gguf"], "Q8_0").bytes - 100_000
    made = task("hybrid", tmp_path / "tiny.gguf", {**PARAMS, "type": None, "target_bytes": target}, tiny)
    judged(made, tmp_path / "tiny.gguf")
    assert made.measurements["mixture_bytes", ""] <= target
    assert made.artifact["meta"]["plain_type"] == "Q5_K_M"
    beside(made, "Q8_0")
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []
    with pytest.raises(TaskError, match="target size of 1 MB is too small") as refused:
        task("hybrid", tmp_path / "none.gguf", {**PARAMS, "type": None, "target_bytes": 1_000_000}, tiny)
    assert refused.value.hint is not None
    assert not (tmp_path / "none.gguf").exists()
    with pytest.raises(TaskError) as before:  # the same, before the costs are measured
        task("type-costs", tmp_path / "none.json", {**COSTS, "target_bytes": 1_000_000}, tiny)
    assert (before.value.message, before.value.hint) == (refused.value.message, refused.value.hint)


def test_a_mixture_that_is_not_better_gives_way_to_the_plain_file(
    tiny: dict[str, Any], task: Task, tmp_path: Path
) -> None:
    """The worst the solver could do: every tensor in the type that errs most."""
    wrong = json.loads(tiny["costs"].read_text("utf-8"))
    wrong["errors"] = {key: {"Q4_0": 0.0, "Q8_0": 1.0} for key in wrong["errors"]}
    costs = tmp_path / "wrong.json"
    costs.write_text(json.dumps(wrong), "utf-8")
    out = tmp_path / "tiny.gguf"
    made = task("hybrid", out, {**PARAMS, "type": "Q8_0"}, {**tiny, "costs": costs})
    judged(made, out)
    assert made.measurements["kept", ""] == "Q8_0"
    quantize(tiny["gguf"], tmp_path / "plain.gguf", "Q8_0", threads=2, imatrix=read_imatrix(tiny["imatrix"]))
    assert out.read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_the_embedded_base(f16: Path, base_folder: Path, tmp_path: Path) -> None:
    """One solution on the real model without probing it: K types for rows of 1536, blocks of 32 for those of 576."""
    info = inspect_gguf(f16)
    quantize(f16, tmp_path / "plain.gguf", "Q2_K", threads=2)
    plain = inspect_gguf(tmp_path / "plain.gguf")
    layers = [
        tensor for tensor in matrices_of(info, types_of(plain)) if tensor.name.startswith(("blk.0.", "blk.1.", "token"))
    ]
    flat = ImportanceMatrix({
        tensor.name: Statistic(np.ones(tensor.shape[0], np.float32), 1)
        for tensor in layers if tensor.name.startswith("blk")
    })  # fmt: skip
    errors = errors_of(Weights(f16), layers, flat, threads=2)
    assert "Q2_K" in errors["blk.0.ffn_down.weight"]
    assert "Q2_K" not in errors["blk.0.ffn_up.weight"]
    solved = solve_file(plain, layers, errors, plain.bytes)
    made = build(f16, tmp_path / "mixture.gguf", solved, "Q2_K", flat, threads=2)
    assert abs(made.bytes - solved.bytes) < 256
    assert plain.bytes == pytest.approx(made.bytes, rel=0.01)  # as large as its budget, which recommend says it will be
    # The embedding is the head too: its type is the one that was solved for.
    assert {tensor.name: tensor.type for tensor in made.tensors}["token_embd.weight"] == solved.types[
        "token_embd.weight"
    ]
