"""The queue: every job once, failures hold back only what needs them, and a retry goes on where it stopped."""

import json
import time
from dataclasses import replace

import pytest

from core.errors import Refused
from core.phases import declaring, service
from core.runner import ledger
from core.runner.client import cancel_jobs, retry_jobs
from core.runner.events import MAX_READ
from core.store.engine import Store, open_store
from core.store.reads import open_reader
from core.store.tables import Job
from core.store.views import JobView
from core.workspace import Workspace
from tests.imitate import FAILED, STOPPED, VANISHED, chat_lines, contents, do_all, do_job, end_job, ready, start_job


def find(workspace: Workspace, kind: str, domain: str | None = None) -> JobView:
    """The newest job of a kind."""
    with open_reader(workspace) as reader:
        return next(job for job in reader.jobs() if job.kind == kind and (domain is None or job.domain == domain))


def states(workspace: Workspace) -> dict[str, str]:
    with open_reader(workspace) as reader:
        return {f"{job.kind} {job.domain or ''}".strip(): job.state for job in reader.jobs()}


def fail_training(workspace: Workspace, store: Store) -> JobView:
    """Build phase 1, whose training of business fails; all else runs as far as it can."""
    service.build_phase(workspace, 1)
    train = find(workspace, "train", "business")
    while jobs := ready(store):
        job_id = jobs[0].id
        assert job_id is not None
        if job_id == train.id:
            do_job(store, job_id, FAILED)
        else:
            do_job(store, job_id)
    return find(workspace, "train", "business")


def test_asking_twice_queues_once(phase_one: Workspace) -> None:
    first = service.build_phase(phase_one, 1)
    rows = contents(phase_one)
    assert service.build_phase(phase_one, 1) == first
    assert set(service.train_domain(phase_one, "business")) < set(first)
    assert {name: value for name, value in contents(phase_one).items() if name != "domain"} == {
        name: value for name, value in rows.items() if name != "domain"
    }


def test_jobs_run_in_the_order_of_their_needs(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    assert [job.kind for job in ready(store)] == ["base"]
    done = do_all(phase_one)
    with open_reader(phase_one) as reader:
        needs = {job.id: job.depends_on for job in reader.jobs()}
    assert set(done) == set(needs)
    assert all(done.index(need) < done.index(job) for job in done for need in needs[job])
    assert set(states(phase_one).values()) == {"succeeded"}


def test_urgent_jobs_go_first(store: Store) -> None:
    with store.write() as session:
        session.add_all([Job(kind="clean", title=str(n), key=str(n), priority=n % 2) for n in range(4)])
    assert [job.title for job in ready(store)] == ["1", "3", "0", "2"]


def test_a_failure_blocks_what_needs_it_and_nothing_else(phase_one: Workspace, store: Store) -> None:
    train = fail_training(phase_one, store)
    found = states(phase_one)
    assert train.state == found["train business"] == "failed"
    blocked = {"evaluate business", "adapter-convert business", "verify", "package"}
    assert {name for name, state in found.items() if state == "blocked"} == blocked
    assert {state for name, state in found.items() if name not in {*blocked, "train business"}} == {"succeeded"}
    verify = find(phase_one, "verify")
    assert verify.error == f"waits for job {train.id} (train business), which failed"
    assert verify.hint == f"tara jobs retry {train.id}"
    with open_reader(phase_one) as reader:
        phase = reader.phase(1)
    assert phase.state == "failed"
    assert {domain.name: domain.status for domain in phase.domains} == {
        "healthcare": "complete",
        "business": "failed",
    }


@pytest.mark.parametrize("how", ["build", "retry"])
def test_going_on_after_a_failure(phase_one: Workspace, store: Store, how: str) -> None:
    train = fail_training(phase_one, store)
    waiting = {find(phase_one, kind).id for kind in ("evaluate", "adapter-convert", "verify", "package")}
    if how == "build":
        assert set(service.build_phase(phase_one, 1)) == {train.id, *waiting}  # under their old numbers
    else:
        assert retry_jobs(phase_one, [train.id]) == [train.id]
    with open_reader(phase_one) as reader:
        assert {job.id for job in reader.jobs(states=["queued"])} == {train.id, *waiting}
        assert all(job.error is None and job.hint is None for job in reader.jobs(states=["queued"]))
        assert reader.phase(1).state == "training"
    do_all(phase_one)
    again = find(phase_one, "train", "business")
    assert (again.id, again.attempt, again.run_dir) == (train.id, 2, f"runs/{train.id}.2")
    assert (phase_one.runs / str(train.id)).is_dir()
    assert [row[5] for row in contents(phase_one)["job_attempt"] if row[0] == train.id] == ["failed", "succeeded"]
    with open_reader(phase_one) as reader:
        assert (reader.phase(1).state, reader.phase(1).complete) == ("compressing", 2)


def test_what_two_failures_block_waits_for_both(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    (base,) = ready(store)
    assert base.id is not None
    do_job(store, base.id)
    trainings = [job.id for job in ready(store) if job.kind == "train" and job.id is not None]
    for one in trainings:
        do_job(store, one, FAILED)
    retry_jobs(phase_one, trainings[:1])
    found = states(phase_one)
    assert found["evaluate healthcare"] == "queued"
    assert (found["evaluate business"], found["verify"], found["package"]) == ("blocked", "blocked", "blocked")
    retry_jobs(phase_one, trainings[1:])
    assert "blocked" not in states(phase_one).values()


def test_changed_data_after_a_failure_is_another_job(phase_one: Workspace, store: Store) -> None:
    train = fail_training(phase_one, store)
    chat_lines(phase_one.data / "business.jsonl", answer="better")
    service.build_phase(phase_one, 1)
    assert find(phase_one, "train", "business").id != train.id
    do_all(phase_one)
    with open_reader(phase_one) as reader:
        assert reader.job(train.id).state == "failed"
        assert (reader.phase(1).state, reader.phase(1).complete) == ("compressing", 2)


def test_retrying_what_is_not_over_is_refused(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    (base,) = ready(store)
    assert base.id is not None
    for _ in range(2):  # queued, then succeeded
        rows = contents(phase_one)
        with pytest.raises(Refused, match="nothing to retry"):
            retry_jobs(phase_one, [base.id])
        assert contents(phase_one) == rows
        if ready(store)[0].id == base.id:
            do_job(store, base.id)


def test_cancelling_blocks_and_retrying_frees(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    cancel_jobs(phase_one, [base.id])
    found = states(phase_one)
    assert found.pop("base") == "cancelled"
    assert set(found.values()) == {"blocked"}
    with open_reader(phase_one) as reader:
        assert reader.phase(1).state == "planning"
    retry_jobs(phase_one, [base.id])
    assert set(states(phase_one).values()) == {"queued"}
    start_job(store, base.id)
    cancel_jobs(phase_one, [base.id])
    assert find(phase_one, "base").state == "stopping"
    assert end_job(store, base.id, STOPPED) == "cancelled"


def test_a_vanished_job_is_started_again_a_few_times(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    for _ in range(3):
        start_job(store, base.id)
        assert end_job(store, base.id, VANISHED) == "queued"
        assert "blocked" not in states(phase_one).values()
    start_job(store, base.id)
    assert end_job(store, base.id, VANISHED) == "interrupted"
    assert find(phase_one, "train").state == "blocked"
    assert [row[5] for row in contents(phase_one)["job_attempt"]] == ["retried"] * 3 + ["interrupted"]


def test_a_job_stopped_from_outside_was_not_cancelled(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    start_job(store, base.id)
    assert end_job(store, base.id, STOPPED) == "queued"  # the machine went down: it goes on when it is back
    assert "stopped from outside" in (find(phase_one, "base").error or "")


def test_only_one_may_claim(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    (base,) = ready(store)
    assert base.id is not None
    assert ledger.claim(store, base.id) is not None
    assert ledger.claim(store, base.id) is None
    assert ledger.claim(store, 999) is None
    ledger.mark_running(store, base.id)
    assert find(phase_one, "base").state == "running"


def test_a_job_that_cannot_be_started_fails_with_the_reason(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    assert ledger.fail(store, base.id, "no room", "make some") == "failed"
    found = find(phase_one, "base")
    assert (found.state, found.error, found.hint, found.attempt) == ("failed", "no room", "make some", 0)
    assert find(phase_one, "train").state == "blocked"


def test_events_are_read_once_and_garbled_lines_passed(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    events = start_job(store, base.id) / "events.jsonl"

    def line(step: int) -> str:
        return json.dumps({"t": time.time(), "event": "metrics", "step": step, "values": {"loss": 1.0 / step}})

    events.write_text(line(1) + "\nnot json\n[1]\n" + line(2)[:20])
    assert ledger.take_events(store, base.id) is True
    assert ledger.take_events(store, base.id) is False
    assert find(phase_one, "base").state == "running"
    with open(events, "a") as stream:
        stream.write(line(2)[20:] + "\n" + json.dumps({"t": 1, "event": "error", "message": "m", "hint": "h"}) + "\n")
    with store.write() as session:
        job = session.get(Job, base.id)
        assert job is not None
        assert ledger.pending_events(store, job)
    assert end_job(store, base.id, FAILED) == "failed"
    with open_reader(phase_one) as reader:
        assert [(point.step, point.value) for point in reader.series(base.id)] == [(1, 1.0), (2, 0.5)]
        assert (reader.job(base.id).error, reader.job(base.id).hint) == ("m", "h")


def test_a_long_event_file_is_read_to_its_end(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    events = start_job(store, base.id) / "events.jsonl"
    padding = "x" * 100_000
    count = 2 * MAX_READ // len(padding)
    with open(events, "w") as stream:
        for step in range(1, count + 1):
            stream.write(json.dumps({"t": 1.0, "event": "progress", "step": step, "total": count, "message": padding}))
            stream.write("\n")
    end_job(store, base.id, FAILED)
    assert find(phase_one, "base").step == count


def test_a_failure_without_a_word_names_its_exit(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    start_job(store, base.id)
    assert end_job(store, base.id, FAILED) == "failed"
    assert find(phase_one, "base").error == "exit status 3"


def test_a_failure_after_the_build_is_the_domains_not_the_phases(built: Workspace) -> None:
    store = open_store(built)
    chat_lines(built.data / "business.jsonl", answer="worse")
    service.train_domain(built, "business")
    (train,) = ready(store)
    assert train.id is not None
    do_job(store, train.id, FAILED)
    with open_reader(built) as reader:
        phase = reader.phase(1)
    assert phase.state == "compressing"
    assert {domain.name: domain.status for domain in phase.domains}["business"] == "failed"
    with pytest.raises(Refused):
        declaring.update_domain(built, "business", status="training")


def test_each_attempt_is_judged_by_its_own_end(phase_one: Workspace, store: Store) -> None:
    """What ended the attempt before says nothing of this one; and a kind without a preset has nothing smaller."""
    service.build_phase(phase_one, 1)
    base = find(phase_one, "base")
    start_job(store, base.id)
    assert end_job(store, base.id, replace(VANISHED, signal=9, why_killed="memory")) == "queued"
    assert find(phase_one, "base").smaller == 0
    start_job(store, base.id)
    assert find(phase_one, "base").failure is None
    assert end_job(store, base.id, replace(VANISHED, code=1)) == "failed"
    assert find(phase_one, "base").failure == "error"


def test_a_training_has_as_many_tries_as_there_are_smaller_ways(phase_one: Workspace, store: Store) -> None:
    service.build_phase(phase_one, 1)
    start_job(store, find(phase_one, "base").id)
    training = find(phase_one, "train")
    killed = replace(VANISHED, signal=9, oom_kills_group=1)
    hints = []
    for _ in range(9):
        start_job(store, training.id)
        if end_job(store, training.id, killed) != "queued":
            break
        hints.append(find(phase_one, "train").hint)
    assert [one for one in hints if one and "examples cut to" in one]
    assert find(phase_one, "train").state == "failed"
    assert find(phase_one, "train").smaller == len(hints)
