"""What jobs will take, and on what that is based; whether they fit; how far it was off."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog import load_catalog
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
from core.phases.outlook import Outlook, checked, outlook_of_domain, outlook_of_phase
from core.phases.probe import Speed, seconds_by_speed, speed
from core.phases.work import work_of
from core.runner.admission import Device, Need, most_disk
from core.store.engine import Store
from core.store.reads import open_reader
from core.store.views import PastJob
from core.training.data import read_examples
from core.workspace import Workspace
from tara_tui.details import error_lines
from tests.imitate import chat_lines, do_all, ready, start_job

GB, MB = 10**9, 10**6
BASE = "starter-135M"
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
