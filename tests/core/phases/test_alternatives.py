"""What is named in the place of a job that does not fit, and what all jobs together take of the disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog import load_catalog
from core.catalog.bases import Located
from core.catalog.config import parameters_of
from core.phases import service
from core.phases.forecast import Machine
from core.phases.needs import need_of
from core.phases.outlook import NONE_FITS, Alternatives, outlook_of_phase
from core.phases.plan import Planner
from core.phases.planned import Compression, PlannedJob
from core.runner.admission import Need, most_disk
from core.store.reads import open_reader
from core.training.footprint import Shape
from core.workspace import Workspace
from tara_tui.details import plan_lines
from tests.conftest import use_base
from tests.core.phases.test_forecast import BASE, GB, MACHINE
from tests.imitate import base_folder
from tests.tara_tui.screen import SIZES

Large = Callable[[Workspace, int], None]


def large_base(folder: Path, **sizes: int) -> Path:
    """A base whose config says that it is large; its weights are not."""
    base_folder(folder)
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "vocab_size": 50000, **sizes}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Large:
    """Makes the phase's base one of so many weights: its files stay as small as they are."""

    def make(workspace: Workspace, parameters: int) -> None:
        path = workspace.configs / "model_mapping.json"
        mapping = json.loads(path.read_text("utf-8"))
        mapping["models"][BASE]["parameters"] = parameters
        path.write_text(json.dumps(mapping), "utf-8")

        def counted(located: Located) -> int | None:
            return parameters if located.name == BASE else parameters_of(located)

        monkeypatch.setattr("core.phases.needs.parameters_of", counted)

    return make


def with_memory(size: int) -> Machine:
    """A machine with nothing running and room on its disk."""
    return replace(MACHINE, disk_free=10**13, memory_total=size, memory_free=size, memory_held=0)


def nearest(
    workspace: Workspace,
    machine: Machine,
    kind: str,
    *,
    chosen: str = "gpu",
    compression: Compression = Compression("Q8_0"),  # noqa: B008 - frozen
) -> str:
    """What fits in the place of a phase's job of a kind that does not."""
    catalog = load_catalog(workspace)
    sources = [replace(one, preset=chosen) for one in service.sources(workspace, catalog, 1)]
    with open_reader(workspace) as reader:
        planner = Planner(workspace, catalog, reader)
        missing = planner.phase(1, sources, compression).missing()
        alternatives = Alternatives(catalog, planner, machine, missing)
        job, before = next((one, _before(missing, one)) for one in reversed(missing) if one.kind == kind)
        verdict = alternatives.verdict(job, before)
        assert verdict.never, verdict
        return alternatives.nearest(job, verdict)


def _before(missing: list[PlannedJob], job: PlannedJob) -> int:
    return sum(one.need.left for one in missing[: missing.index(job)])


def test_a_training_is_run_smaller_then_with_a_smaller_preset_then_on_a_smaller_base(
    phase_one: Workspace, tmp_path: Path, large: Large
) -> None:
    use_base(phase_one, large_base(tmp_path / "large"))
    large(phase_one, 10**9)
    found = nearest(phase_one, with_memory(40 * GB), "train")
    assert "2 examples at once in place of 8, which the training does by itself, needs" in found
    found = nearest(phase_one, with_memory(7 * GB), "train", chosen="standard")
    assert found.startswith("fits: ")
    tight = with_memory(3 * GB)  # less than the weights
    assert nearest(phase_one, tight, "train").startswith(
        f"{NONE_FITS}; tried were smaller ways to run it, other presets"
    )
    assert nearest(phase_one, tight, "evaluate") == f"{NONE_FITS}; tried were smaller bases"
    use_base(phase_one, large_base(tmp_path / "small", hidden_size=64, intermediate_size=128), "Efficient-1B")
    on = "fits: base Efficient-1B (configs/domain_model_mapping.yaml), "
    assert nearest(phase_one, tight, "evaluate").startswith(f"{on}needs ")
    assert nearest(phase_one, tight, "train", chosen="starter").startswith(f"{on}needs ")
    found = nearest(phase_one, tight, "train")
    assert found.startswith(f"{on}2 examples at once in place of 8, which the training does by itself, needs "), found


def test_a_preset_of_less_rank_fits_where_shorter_examples_do_not(
    phase_one: Workspace, tmp_path: Path, large: Large
) -> None:
    presets = phase_one.configs / "presets.yaml"
    text = presets.read_text("utf-8")
    ranked = text[text.index("\nultra:") : text.index("\ngpu:")].replace("ultra", "ranked", 1)
    presets.write_text(text + ranked.replace("lora_r: 2", "lora_r: 512"), "utf-8")
    use_base(phase_one, large_base(tmp_path / "large"))
    large(phase_one, 10**9)
    found = nearest(phase_one, with_memory(8 * GB), "train", chosen="ranked")
    assert found.startswith("fits: tara train-domain "), found
    assert "--preset" in found


@pytest.mark.parametrize(
    ("kind", "compression", "says"),
    [
        ("type-costs", Compression("Q4_K_M", "hybrid"), "fits: --compression-type standard, which does without"),
        ("prune", Compression("Q4_K_M", "sparse"), "fits: --compression-type standard, which does without"),
        ("repair-adapter", Compression("Q2_K", repair=True), "fits: building without --repair, which does without"),
        ("imatrix", Compression("Q4_K_M"), "fits: calibration_tokens: 0 in configs/settings.yaml, with more loss"),
        (
            "imatrix",
            Compression("Q4_K_M", "hybrid"),  # which cannot be solved without
            "fits: --compression-type standard, calibration_tokens: 0 in configs/settings.yaml, with more loss",
        ),
    ],
)
def test_what_a_job_is_for_is_left_out_where_the_job_does_not_fit(
    phase_one: Workspace, tmp_path: Path, large: Large, kind: str, compression: Compression, says: str
) -> None:
    use_base(phase_one, large_base(tmp_path / "large"))
    large(phase_one, 10**9)
    assert nearest(phase_one, with_memory(2 * GB), kind, compression=compression).startswith(says)
    found = nearest(phase_one, with_memory(GB // 10), kind, compression=compression)
    assert found.startswith(f"{NONE_FITS}; tried were "), found
    assert "smaller bases" in found


def test_a_large_vocabulary_is_quantized_in_slabs() -> None:
    """What a model of 7 B parameters is rounded in is no more than what is held at a time, whatever its embedding."""
    shape = Shape(7_600_000_000, layers=28, hidden=3584, inner=18944, vocabulary=152064, gated=True)
    assert need_of("quantize", {"type": "Q4_K_M"}, shape).memory < GB // 2


def test_a_smaller_type_is_named_where_disk_is_short(phase_one: Workspace, large: Large) -> None:
    large(phase_one, GB)
    roomy = with_memory(10**13)

    def total(quantization: str) -> int:
        plan = service.plan_build(phase_one, 1, service.Asked(quantization=quantization))
        return most_disk(job.need for job in plan.missing())

    need = {name: total(name) for name in ("Q2_K", "Q5_K_M", "Q8_0")}
    assert need["Q2_K"] < need["Q5_K_M"] < need["Q8_0"]
    found = nearest(phase_one, replace(roomy, disk_free=need["Q5_K_M"] + GB), "package", chosen="starter")
    assert found == f"fits: --quantization Q5_K_M, all of it needs {need['Q5_K_M'] / 1e6:.0f} MB"
    found = nearest(phase_one, replace(roomy, disk_free=2 * GB), "package", chosen="starter")
    assert found.startswith(NONE_FITS)
    assert "tara cleanup-phase" in found


def test_a_plain_type_is_named_where_the_disk_is_too_small_for_a_mixture(phase_one: Workspace, large: Large) -> None:
    large(phase_one, GB)

    def total(**asked: str) -> int:
        return most_disk(job.need for job in service.plan_build(phase_one, 1, service.Asked(**asked)).missing())

    plain = total(quantization="Q4_K_M")
    assert plain < total(quantization="Q4_K_M", compression_type="hybrid")
    machine = replace(with_memory(10**13), disk_free=plain + GB)
    found = nearest(phase_one, machine, "type-costs", chosen="starter", compression=Compression("Q4_K_M", "hybrid"))
    assert found == f"fits: --compression-type standard, all of it needs {plain / 1e6:.0f} MB"
    for_a_size = Compression("Q4_K_M", "hybrid", 10**8)  # which has no type of its own
    machine = replace(machine, disk_free=total(quantization="Q4_K_M", compression_type="hybrid") + GB // 2)
    found = nearest(phase_one, machine, "type-costs", chosen="starter", compression=for_a_size)
    assert found.startswith("fits: --compression-type standard")


def test_what_is_free_again_at_the_end_is_not_counted_twice() -> None:
    assert most_disk([]) == 0
    assert most_disk([Need(disk=10, scratch=8), Need(disk=3), Need(disk=4, scratch=4)]) == 10
    assert most_disk([Need(disk=10, scratch=2), Need(disk=3)]) == 11
    shape = Shape(GB, layers=2, hidden=64, inner=64, vocabulary=64, gated=True)
    for kind in ("type-costs", "check-small", "measure"):
        params = {"target_bytes": None, "max_tokens": 1000, "domains": {"one": {}}, "type": "Q4_K_M"}
        need = need_of(kind, params, shape)
        assert need.left <= 10**6  # a file of figures stays


def test_lines_fit_the_smallest_screen(phase_one: Workspace, large: Large) -> None:
    large(phase_one, 10**12)
    lines = plan_lines(outlook_of_phase(phase_one, 1))
    assert lines[0].split() == ["job", "memory", "disk", "time"]
    jobs = lines[1 : lines.index(next(line for line in lines if "one after the other" in line)) + 1]
    assert len(jobs) == 13
    assert all(len(line) <= int(0.9 * SIZES[0][0]) - 6 for line in jobs), jobs
    assert any("does not fit" in line for line in jobs)
    assert any(NONE_FITS in line for line in lines)
