"""The quality threshold of a phase: what it stops, what goes on past it, and that it makes nothing else stale."""

import json
from collections import Counter
from pathlib import Path

import pytest

from core.cli.show import phase_json
from core.deploy.manifest import read_manifest
from core.deploy.service import deploy_phase
from core.errors import BelowThreshold, InvalidInput
from core.phases import declaring, service
from core.phases.gating import gate_of
from core.phases.merging import MergeWish
from core.phases.outcome import override_line
from core.phases.overrides import overrides
from core.phases.planned import Plan, PlannedJob
from core.runner.executors import Exit
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.views import PhaseView
from core.tasks import quality_gate
from core.tasks.context import Context, TaskError
from core.training.threshold import below, judged
from core.workspace import Workspace
from tests.core.conftest import DOMAINS
from tests.imitate import chat_lines, contents, do_all, do_job, end_job, ready, start_job


def asked(threshold: float | None = None, override: str | None = None, **more: MergeWish) -> service.Asked:
    return service.Asked(quality_threshold=threshold, override_quality=override, **more)


def missing(plan: Plan) -> Counter[str]:
    return Counter(job.kind for job in plan.missing())


def only(plan: Plan, kind: str) -> PlannedJob:
    (found,) = [job for job in plan.jobs.values() if job.kind == kind]
    return found


def early_gate(plan: Plan) -> PlannedJob:
    """The gate before anything is converted."""
    (found,) = [job for job in plan.jobs.values() if job.kind == "quality-gate" and "evaluations" in job.inputs]
    return found


def phase_of(workspace: Workspace) -> PhaseView:
    with open_reader(workspace) as reader:
        return reader.phase(1)


def fail_the_gate(workspace: Workspace) -> str:
    """Do what can be done until the gate fails, by the real task; why it did."""
    store = open_store(workspace)
    while (job := ready(store)[0]).kind != "quality-gate":
        assert job.id is not None
        do_job(store, job.id)
    assert job.id is not None
    context = Context(start_job(store, job.id))
    with pytest.raises(TaskError) as caught:
        quality_gate.run(context)
    context.emit("error", message=caught.value.message, hint=caught.value.hint, failure=None)
    end_job(store, job.id, Exit(3, None, False, None, 0.0))
    assert not ready(store)
    return f"{caught.value.message} — {caught.value.hint}"


def manifest_of(workspace: Workspace) -> dict[str, object]:
    path = phase_of(workspace).bundle_path
    assert path is not None
    return read_manifest(workspace.absolute(path))


def test_what_was_measured_of_a_unified_model_counts_and_a_declared_value_never() -> None:
    reports = {"a": {"tuned_accuracy": 0.8}, "b": {"tuned_accuracy": 0.4}, "c": {}}
    check = {"rows": [{"domain": "a", "unified_accuracy": 0.3}]}
    found = judged(reports, [check], {"b": 0.99, "c": 0.99})
    assert [one.domain for one in below(found, 0.4)] == ["a", "c"]
    assert [one.one_line() for one in found] == [
        "a 0.300 measured of the unified model",
        "b 0.400 measured (declared 0.99 does not count)",
        "c not measured (declared 0.99 does not count)",
    ]


def test_below_the_threshold_nothing_is_converted_or_packaged(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1, asked(0.9))
    plan = service.plan_build(phase_one, 1)
    gate = early_gate(plan)
    assert {job.kind for job in plan.jobs.values() if gate.key in job.needs} == {"adapter-convert", "convert"}
    line = fail_the_gate(phase_one)
    assert line.startswith("below the quality threshold 0.9 of phase 1: healthcare 0.500 measured; business 0.500 ")
    assert "--override-quality REASON (recorded)" in line
    with open_reader(phase_one) as reader:
        assert {job.kind for job in reader.jobs(states=["succeeded"])} == {"base", "train", "evaluate"}
    found = phase_of(phase_one)
    assert (found.state, found.bundle_path, found.quality_threshold) == ("failed", None, 0.9)
    rows = contents(phase_one)
    declaring.update_domain(phase_one, "business", quality=0.99)
    declared = contents(phase_one)
    with pytest.raises(BelowThreshold, match=r"business 0\.500 measured \(declared 0\.99 does not count\)") as caught:
        service.build_phase(phase_one, 1)  # known now, so nothing is queued only to fail
    assert len(caught.value.lines) == 2
    assert contents(phase_one) == declared != rows
    service.build_phase(phase_one, 1, asked(0.5))
    do_all(phase_one)
    assert phase_of(phase_one).state == "compressing"
    assert manifest_of(phase_one)["quality_gate"]["override"] is None  # type: ignore[index]


def test_an_override_is_recorded_and_holds_until_the_threshold_is_another(built: Workspace) -> None:
    assert missing(service.plan_build(built, 1, asked(0.4))) == Counter(
        {"quality-gate": 2, "check-delivered": 1, "package": 1}
    )
    with pytest.raises(BelowThreshold):
        service.build_phase(built, 1, asked(0.9))
    service.build_phase(built, 1, asked(0.9, "the data comes in May"))
    do_all(built)
    verdict = manifest_of(built)["quality_gate"]
    assert isinstance(verdict, dict)
    assert (verdict["threshold"], verdict["override"]) == (0.9, "the data comes in May")
    assert verdict["below"] == list(DOMAINS)
    assert verdict["domains"]["business"]["quality"] == 0.5
    assert not service.plan_build(built, 1).missing()  # remembered: the next build says nothing of it
    with open_reader(built) as reader:
        (one,) = phase_json(reader.phase(1), reader)["quality_overrides"]
        (recorded,) = overrides(reader, reader.phase(1))
    assert (one["for"], one["reason"]) == ("build", "the data comes in May")
    assert "build below the quality threshold 0.9" in override_line(recorded)
    assert "healthcare 0.500 measured" in override_line(recorded)
    with pytest.raises(BelowThreshold):
        deploy_phase(built, 1)  # to hand it out is another decision
    with pytest.raises(BelowThreshold):
        service.build_phase(built, 1, asked(0.8))
    assert phase_of(built).quality_threshold == 0.9
    service.build_phase(built, 1, asked(0.3))
    do_all(built)
    assert deploy_phase(built, 1) is not None


def test_an_override_before_anything_is_measured(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1, asked(0.9, "only to see it run"))
    do_all(phase_one)
    assert manifest_of(phase_one)["quality_gate"]["below"] == list(DOMAINS)  # type: ignore[index]
    chat_lines(phase_one.data / "business.jsonl", answer="better")
    service.build_phase(phase_one, 1)
    do_all(phase_one, quality=0.95)
    assert manifest_of(phase_one)["quality_gate"]["below"] == []  # type: ignore[index] # all files were measured again
    with open_reader(phase_one) as reader:
        verdicts = [row["meta"] for row in reader.artifacts(kind="quality-verdict")]
    assert ["healthcare"] in [one["below"] for one in verdicts]  # the adapters, of which one is as it was


def test_a_unified_model_is_judged_by_its_own_accuracy(built: Workspace) -> None:
    wish = asked(0.6, merge=MergeWish("unified"))
    plan = service.plan_build(built, 1, wish)
    gate, check = early_gate(plan), only(plan, "check-merge")
    assert check.key in gate.needs
    assert not [job for job in plan.missing() if job.kind == "convert" and gate.key not in job.needs]
    seen: set[str] = set()
    for job in plan.jobs.values():
        assert set(job.needs) <= seen
        seen.add(job.key)
    service.build_phase(built, 1, wish)  # the adapters are below, and it is not they that answer
    do_all(built, quality=0.7)
    verdict = manifest_of(built)["quality_gate"]
    assert isinstance(verdict, dict)
    assert {one["of"] for one in verdict["domains"].values()} == {"the delivered file"}
    assert not verdict["below"]


def test_what_is_asked_in_a_wrong_way_is_refused(built: Workspace) -> None:
    rows = contents(built)
    for wish, says in (
        (asked(override="why not"), "phase 1 has no quality threshold"),
        (asked(1.5), "between 0 and 1"),
        (asked(0.9, " "), "an override needs a reason"),
    ):
        with pytest.raises(InvalidInput, match=says):
            service.build_phase(built, 1, wish)
    assert contents(built) == rows
    with open_reader(built) as reader:
        assert gate_of(reader, reader.phase(1)) is None


def test_the_verdict_is_whole(built: Workspace) -> None:
    service.build_phase(built, 1, asked(0.5))
    do_all(built)
    with open_reader(built) as reader:
        rows = reader.artifacts(kind="quality-verdict")
    assert len(rows) == 2
    for row in rows:
        assert json.loads(Path(built.absolute(row["path"])).read_text())["domains"].keys() == set(DOMAINS)


def test_what_was_lost_on_the_way_to_the_file_stops_the_bundle(built: Workspace) -> None:
    """The adapters pass; the files that were made of them do not."""
    service.build_phase(built, 1, asked(0.4))
    store = open_store(built)
    while ready(store):
        job = ready(store)[0]
        assert job.id is not None
        if job.kind == "quality-gate" and "delivered" in json.loads(job.inputs):
            break
        do_job(store, job.id, quality=0.3 if job.kind == "check-delivered" else 0.5)
    line = fail_the_gate(built)
    assert line.startswith(
        "below the quality threshold 0.4 of phase 1: healthcare 0.300 measured of the delivered file"
    )
    before = contents(built)
    with pytest.raises(BelowThreshold, match=r"business 0\.300 measured of the delivered file"):
        service.build_phase(built, 1)  # known now
    assert contents(built) == before
    service.build_phase(built, 1, asked(override="good enough to show"))
    do_all(built)
    verdict = manifest_of(built)["quality_gate"]
    assert isinstance(verdict, dict)
    assert (verdict["override"], verdict["below"]) == ("good enough to show", list(DOMAINS))
    domains = manifest_of(built)["domains"]
    assert isinstance(domains, dict)
    assert domains["business"]["measurements"]["quality"] == 0.3
    with pytest.raises(BelowThreshold, match="of the delivered file"):
        deploy_phase(built, 1)
