"""What jobs will take, and on what that is based; whether they fit; how far it was off."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog import load_catalog
from core.catalog.bases import Located
from core.catalog.config import parameters_of
from core.errors import InvalidInput
from core.phases import service
from core.phases.forecast import (
    AT_WORK,
    ESTIMATED,
    FITS,
    LATER,
    MEASURED,
    NEVER,
    OTHERS,
    PROBE,
    UNKNOWN,
    Machine,
    error_of,
    errors_by_kind,
    expect_seconds,
    judge,
)
from core.phases.needs import need_of
from core.phases.outlook import NONE_FITS, Alternatives, Outlook, checked, outlook_of_domain, outlook_of_phase
from core.phases.plan import Planner
from core.phases.planned import Compression, PlannedJob
from core.phases.probe import Speed, seconds_by_speed, speed
from core.phases.work import work_of
from core.runner.admission import Device, Need, most_disk
from core.store.engine import Store
from core.store.reads import open_reader
from core.store.views import PastJob
from core.training.data import read_examples
from core.training.footprint import Shape
from core.workspace import Workspace
from tara_tui.details import error_lines, plan_lines
from tests.conftest import use_base
from tests.imitate import base_folder, chat_lines, do_all, ready, start_job
from tests.tara_tui.screen import SIZES

GB, MB = 10**9, 10**6
BASE = "starter-135M"
Large = Callable[[Workspace, int], None]
MACHINE = Machine(
    memory_free=4 * GB, memory_held=3 * GB, memory_owed=0, memory_total=10 * GB, memory_reserve=GB, memory_of="a limit",
    disk_free=5 * GB, disk_promised=0, disk_reserve=GB,
)  # fmt: skip


def past(seconds: float, work: float | None = 100.0, **changes: object) -> PastJob:
    job = PastJob(1, "train", "train a", 1, "f", work, seconds, 900 * MB, whole=True, on_device=False, from_gguf=False)
    return replace(job, **changes)  # type: ignore[arg-type]


# -- seconds --------------------------------------------------------------------------------------------------------


def test_the_same_work_takes_the_median_of_the_newest() -> None:
    same = [past(10), past(12), past(500, work=200), past(11, work=101), past(13), past(14), past(900)]
    assert expect_seconds("train", 100, same=same, like=same) == (12, MEASURED)


def test_other_work_of_the_kind_is_scaled_above_what_the_start_takes() -> None:
    like = [past(28), past(48, work=200)]  # 8 seconds of it are the start: 0.2 seconds a unit
    assert expect_seconds("train", 400, same=[], like=like) == (pytest.approx(88), "scaled from 2 jobs")
    assert expect_seconds("train", 50, same=like, like=like[:1]) == (pytest.approx(18), "scaled from 1 job")
    assert expect_seconds("train", 200, same=[], like=[past(3)]) == (3, "scaled from 1 job")  # it starts faster


@pytest.mark.parametrize(
    "other",
    [
        past(10, whole=False), past(10, on_device=True), past(10, from_gguf=True), past(10, work=None),
        past(10, work=9.0), past(10, work=1001.0),
    ],
)  # fmt: skip
def test_what_says_nothing_of_a_job_counts_for_nothing(other: PastJob) -> None:
    """Attempts from a checkpoint, a device's, a base's of another form, work of another order."""
    assert expect_seconds("train", 100, same=[other], like=[other]) == (None, UNKNOWN)
    quick = Speed(flops=1.0, copied=1.0)
    assert expect_seconds("train", 100, same=[other], like=[other], speed=lambda: quick)[1] == PROBE


def test_without_a_past_the_machines_speed_decides_but_not_for_a_device_or_an_unknown_kind() -> None:
    slow, fast = Speed(10.0**9, 10.0**9), Speed(10.0**10, 10.0**9)
    (long, by), (short, _) = (
        expect_seconds("train", 10.0**12, same=[], like=[], threads=2, speed=lambda one=one: one)  # type: ignore[misc]
        for one in (slow, fast)
    )
    assert by == PROBE
    assert long is not None
    assert short is not None
    assert long - 8 == pytest.approx(10 * (short - 8))
    assert expect_seconds("train", 1, same=[], like=[], on_device=True, speed=lambda: slow) == (None, UNKNOWN)
    assert expect_seconds("juggle", 1, same=[], like=[], speed=lambda: slow) == (None, UNKNOWN)


def test_the_probe_measures_once_and_briefly() -> None:
    found = speed()
    assert 10**8 < found.flops < 10**13
    assert 10**7 < found.copied < 10**13
    assert speed() is found


def test_a_folder_is_prepared_faster_than_a_gguf() -> None:
    at = Speed(10.0**11, 5.0 * GB)
    folder, gguf = (seconds_by_speed("base", GB, at, threads=1, from_gguf=each) for each in (False, True))
    assert folder is not None
    assert gguf is not None
    assert folder < 10 < 100 < gguf


# -- work -----------------------------------------------------------------------------------------------------------


def preset(**changes: object) -> dict[str, object]:
    return {"batch_size": 1, "gradient_accumulation": 2, "sequence_length": 256, "epochs": 2, "max_steps": 9, **changes}


def test_work_grows_with_epochs_up_to_the_steps_and_with_the_base(tmp_path: Path) -> None:
    examples = read_examples(chat_lines(tmp_path / "a.jsonl", count=10))

    def work(parameters: int = 1000, **changes: object) -> float:
        params = {"preset": preset(**changes), "seed": 7, "held_out_fraction": 0.2, "system_prompt": "Be kind."}
        return work_of("train", params, parameters, examples)

    assert work(epochs=1) == pytest.approx(work(epochs=2) / 2)  # 8 of 10 are trained on: 16 examples in 2 epochs
    assert work(epochs=100) == work(epochs=3, max_steps=9)  # 18 examples in 9 steps of 2
    assert work(epochs=100) == pytest.approx(work(epochs=2) * 18 / 16)
    assert work(parameters=3000) == pytest.approx(3 * work())
    assert work(sequence_length=4) < work()


def test_tokens_are_about_those_of_the_embedded_base(workspace: Workspace) -> None:
    """The starter training of healthcare counted 8809 tokens in its 64 examples."""
    catalog = load_catalog(workspace)
    examples = read_examples(workspace.configs / "starter_data" / "healthcare.jsonl")
    params = {
        "preset": catalog.preset("starter").as_dict(), "seed": 7, "held_out_fraction": 0.2,
        "system_prompt": catalog.domain("healthcare").system_prompt,
    }  # fmt: skip
    assert work_of("train", params, 1, examples) / 6 == pytest.approx(8809, rel=0.1)


# -- whether it fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "word", "why"),
    [
        (3 * GB, FITS, ""),
        (3 * GB + 1, LATER, "memory: needs 3000 MB, there is 4000 MB (a limit), reserve 1000 MB"),
        (7 * GB, OTHERS, "there is 7000 MB of 10000 MB beside other programs, reserve 1000 MB"),
        (12 * GB, NEVER, "memory: needs 12000 MB, there is 10000 MB in all, reserve 1000 MB"),
    ],
)
def test_memory_fits_now_later_or_never(memory: int, word: str, why: str) -> None:
    found = judge(Need(memory), MACHINE, 0, slack=1.1, measured=None)
    assert found.word == word
    assert why in found.why
    assert found.never == (word == NEVER)


def test_what_was_measured_counts_with_slack_and_what_was_promised_is_not_free() -> None:
    assert judge(Need(12 * GB), MACHINE, 0, slack=1.1, measured=2 * GB).word == FITS
    assert judge(Need(0), MACHINE, 0, slack=1.1, measured=int(2.8 * GB)).word == LATER
    assert judge(Need(2 * GB), replace(MACHINE, memory_owed=GB + 1), 0, slack=1.1, measured=None).word == LATER


def test_disk_counts_what_comes_before_and_what_running_jobs_were_promised() -> None:
    need = Need(disk=2 * GB)
    assert judge(need, MACHINE, 2 * GB, slack=1.1, measured=None).word == FITS
    found = judge(need, replace(MACHINE, disk_promised=GB), 2 * GB, slack=1.1, measured=None)
    assert (found.word, found.lacks) == (NEVER, "disk")
    assert found.why == (
        "disk: needs 4000 MB (2000 MB by jobs before it), there is 5000 MB, 1000 MB of that promised to running jobs, "
        "reserve 1000 MB"
    )


def test_on_a_device_the_largest_decides() -> None:
    need = Need(memory=50 * GB, device_memory=9 * GB, beside_device=GB, device=True)
    small, large = Device("a", 8 * GB, 8 * GB), Device("b", 16 * GB, GB)
    assert judge(need, replace(MACHINE, devices=(small, large)), 0, slack=1.1, measured=None).word == FITS
    found = judge(need, replace(MACHINE, devices=(small,)), 0, slack=1.1, measured=None)
    assert found.why == "device: needs 9000 MB, the largest has 8000 MB"
    assert judge(need, MACHINE, 0, slack=1.1, measured=None).word == NEVER  # without devices the machine has to do


# -- alternatives ---------------------------------------------------------------------------------------------------


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
    return sum(one.need.disk - one.need.scratch for one in missing[: missing.index(job)])


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
        assert need.disk - need.scratch <= 10**6  # a file of figures stays


# -- a workspace ----------------------------------------------------------------------------------------------------


def by_kind(found: Outlook) -> dict[str, object]:
    return {one.job.kind: one for one in found.jobs}


def test_a_phase_is_foretold_and_looking_changes_nothing(phase_one: Workspace) -> None:
    found = outlook_of_phase(phase_one, 1)
    assert len(found.jobs) == len(service.plan_build(phase_one, 1).missing()) == 12
    assert {one.expected.memory_by for one in found.jobs} == {ESTIMATED}
    assert {one.expected.seconds_by for one in found.jobs} == {PROBE}
    assert found.there == found.unknown == 0
    assert found.memory == max(one.job.need.memory for one in found.jobs)
    assert found.disk == most_disk(one.job.need for one in found.jobs)
    assert found.seconds == pytest.approx(sum(one.expected.seconds or 0 for one in found.jobs))
    assert outlook_of_phase(phase_one, 1, quantization="Q8_0").disk > found.disk
    assert [one.job.kind for one in outlook_of_domain(phase_one, "business").jobs] == ["base", "train", "evaluate"]
    with pytest.raises(InvalidInput, match="no phase 7"):
        outlook_of_phase(phase_one, 7)
    with pytest.raises(InvalidInput, match="nowhere"):
        outlook_of_domain(phase_one, "nowhere")
    with open_reader(phase_one) as reader:
        assert reader.jobs() == []


def test_a_domain_that_is_in_no_phase_can_be_planned(ready_workspace: Workspace) -> None:
    chat_lines(ready_workspace.data / "education.jsonl")
    longer = outlook_of_domain(ready_workspace, "education", preset="standard")
    shorter = outlook_of_domain(ready_workspace, "education", preset="ultra")
    assert longer.seconds > shorter.seconds  # three epochs in place of one
    assert [one.job.domain for one in longer.jobs] == [None, "education", "education"]


def test_what_was_predicted_is_kept_with_the_job_and_checked_when_it_succeeded(phase_one: Workspace) -> None:
    foretold = {one.job.key: one.expected for one in outlook_of_phase(phase_one, 1).jobs}
    ids = service.build_phase(phase_one, 1)
    with open_reader(phase_one) as reader:
        for job in reader.jobs(ids=ids):
            expected = foretold[job.key]
            assert job.predicted_memory_bytes == expected.memory
            assert (job.predicted_seconds, job.predicted_by) == (pytest.approx(expected.seconds), PROBE)
    assert checked(phase_one) == ([], [])
    do_all(phase_one)
    errors, kinds = checked(phase_one, phase=1)
    assert [one.job.id for one in errors] == sorted(ids, reverse=True)
    for one in errors:
        assert one.seconds == pytest.approx(one.job.seconds / (one.job.predicted_seconds or 0) - 1)
        assert one.memory is None  # what was imitated held no memory that anybody measured
    assert {one.kind: one.jobs for one in kinds}["train"] == 2
    with pytest.raises(InvalidInput, match="no phase 7"):
        checked(phase_one, phase=7)


def test_a_job_that_runs_is_at_work(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    (job,) = ready(store)
    assert job.id is not None
    start_job(store, job.id)
    found = by_kind(outlook_of_phase(phase_one, 1))
    assert found["base"].verdict.word == AT_WORK  # type: ignore[attr-defined]
    assert found["convert"].verdict.word == FITS  # type: ignore[attr-defined]


def test_the_next_of_the_same_work_goes_by_what_was_measured(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1)
    do_all(phase_one)
    for name in ("healthcare", "business"):  # other text of the same length: all is to be done again
        chat_lines(phase_one.data / f"{name}.jsonl", answer=name[::-1])
    found = by_kind(outlook_of_phase(phase_one, 1))
    assert "base" not in found
    for kind in ("train", "evaluate", "quantize", "package"):
        assert found[kind].expected.seconds_by == MEASURED, kind  # type: ignore[attr-defined]
    chat_lines(phase_one.data / "healthcare.jsonl", count=18)
    other = by_kind(outlook_of_domain(phase_one, "healthcare"))
    assert other["train"].expected.seconds_by.startswith("scaled from "), other["train"]  # type: ignore[attr-defined]


# -- errors ---------------------------------------------------------------------------------------------------------


def test_errors_are_of_whole_attempts_and_medians_have_no_sign() -> None:
    told = {"predicted_memory_bytes": GB, "predicted_seconds": 10.0}
    jobs = [past(12, **told), past(5, **told), past(8, **{**told, "whole": False}), past(9, kind="base")]
    errors = [error_of(job) for job in jobs]
    assert [one.seconds for one in errors] == [pytest.approx(0.2), pytest.approx(-0.5), None, None]
    assert [one.memory for one in errors] == [pytest.approx(-0.1), pytest.approx(-0.1), None, None]
    train, base = kinds = errors_by_kind(errors)
    assert (train.kind, train.jobs, train.seconds) == ("train", 3, pytest.approx(0.35))
    assert (base.memory, base.seconds) == (None, None)
    _, head, *rows = error_lines(kinds)
    assert head.split() == ["median", "error", "so", "far", "jobs", "memory", "time"]
    assert [row.split() for row in rows] == [["train", "3", "10%", "35%"], ["base", "1", "-", "-"]]
    assert error_lines([]) == []


def test_lines_fit_the_smallest_screen(phase_one: Workspace, large: Large) -> None:
    large(phase_one, 10**12)
    lines = plan_lines(outlook_of_phase(phase_one, 1))
    assert lines[0].split() == ["job", "memory", "disk", "time"]
    jobs = lines[1 : lines.index(next(line for line in lines if "one after the other" in line)) + 1]
    assert len(jobs) == 13
    assert all(len(line) <= int(0.9 * SIZES[0][0]) - 6 for line in jobs), jobs
    assert any("does not fit" in line for line in jobs)
    assert any(NONE_FITS in line for line in lines)
