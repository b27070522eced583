"""States: every one has its moves, and each follows from jobs and artifacts as it is said to."""

import pytest

from core.lifecycle import (
    DOMAIN_MOVES,
    DOMAIN_STATES,
    PHASE_MOVES,
    PHASE_STATES,
    STAGE_OF_KIND,
    JobFact,
    domain_state,
    latest_of_each,
    next_step,
    phase_state,
)
from core.phases.kinds import KINDS
from core.store.views import ACTIVE_JOB_STATES, FINAL_JOB_STATES


def fact(kind: str, state: str, domain: str | None = None, subject: str | None = None) -> JobFact:
    return JobFact(kind, state, "key", domain, subject)


@pytest.mark.parametrize(("states", "moves"), [(PHASE_STATES, PHASE_MOVES), (DOMAIN_STATES, DOMAIN_MOVES)])
def test_every_state_can_be_left_and_reached(states: tuple[str, ...], moves: dict[str, frozenset[str]]) -> None:
    assert set(moves) == set(states)
    assert all(moves[state] and moves[state] <= set(states) and state not in moves[state] for state in states)
    assert frozenset().union(*moves.values()) == set(states)


def test_every_job_of_a_phase_has_a_stage() -> None:
    assert set(STAGE_OF_KIND) == set(KINDS) - {
        "clean",
        "measure",
        "kept-change",
    }  # what is measured of a phase does not move it
    assert set(STAGE_OF_KIND.values()) <= set(PHASE_STATES)


def test_latest_of_each_keeps_domains_and_bases_apart() -> None:
    first = fact("convert", "failed", subject="one")
    second = fact("convert", "succeeded", subject="two")
    third = fact("train", "failed", "business")
    fourth = fact("train", "succeeded", "business")
    assert latest_of_each([first, second, third, fourth]) == [first, second, fourth]


@pytest.mark.parametrize(
    ("jobs", "has_adapter", "evaluated", "expected"),
    [
        ([], False, False, "pending"),
        ([], True, False, "pending"),
        ([], True, True, "complete"),
        ([("train", "queued")], False, False, "pending"),
        ([("train", "starting")], False, False, "training"),
        ([("train", "running")], True, True, "training"),
        ([("train", "stopping")], False, False, "training"),
        ([("train", "failed"), ("evaluate", "blocked")], False, False, "failed"),
        ([("train", "interrupted")], False, False, "failed"),
        ([("train", "cancelled")], False, False, "pending"),
        ([("train", "succeeded"), ("evaluate", "queued")], True, False, "training"),
        ([("train", "succeeded"), ("evaluate", "running")], True, False, "training"),
        ([("train", "succeeded"), ("evaluate", "failed")], True, False, "failed"),
        ([("train", "succeeded"), ("evaluate", "succeeded")], True, True, "complete"),
        ([("train", "failed"), ("train", "succeeded"), ("evaluate", "succeeded")], True, True, "complete"),
        ([("train", "succeeded"), ("evaluate", "succeeded"), ("train", "failed")], True, True, "failed"),
        ([("quantize", "failed"), ("merge", "running")], True, True, "complete"),
    ],
)
def test_a_domains_state(jobs: list[tuple[str, str]], has_adapter: bool, evaluated: bool, expected: str) -> None:
    facts = [fact(kind, state, "business") for kind, state in jobs]
    assert domain_state(facts, has_adapter=has_adapter, evaluated=evaluated) == (expected, False)
    assert domain_state(facts, has_adapter=has_adapter, evaluated=evaluated, declared="failed") == ("failed", True)


@pytest.mark.parametrize(
    ("jobs", "reached", "expected"),
    [
        ([], {}, "planning"),
        ([], {"trained": 1}, "training"),
        ([], {"trained": 2}, "merging"),
        ([], {"domains": 0}, "planning"),
        ([], {"trained": 2, "bundled": True}, "compressing"),
        ([], {"trained": 2, "bundled": True, "deployed": True}, "deployed"),
        ([("base", "queued"), ("quantize", "queued")], {}, "training"),
        ([("train", "succeeded"), ("convert", "running"), ("verify", "queued")], {"trained": 2}, "merging"),
        ([("adapter-convert", "starting"), ("quantize", "running")], {"trained": 2}, "merging"),
        ([("quantize", "stopping")], {"trained": 2}, "compressing"),
        ([("package", "queued")], {"trained": 2, "deployed": True}, "compressing"),
        ([("convert", "failed"), ("quantize", "blocked")], {"trained": 2}, "failed"),
        ([("convert", "failed"), ("convert", "succeeded")], {"trained": 2}, "merging"),
        ([("verify", "interrupted")], {"trained": 2}, "failed"),
        ([("verify", "cancelled")], {"trained": 2}, "merging"),
        ([("verify", "failed")], {"trained": 2, "bundled": True}, "compressing"),
        ([("deploy", "failed")], {"trained": 2, "bundled": True}, "failed"),
        ([("deploy", "failed"), ("deploy", "succeeded")], {"bundled": True, "deployed": True}, "deployed"),
        ([("clean", "failed"), ("clean", "running")], {"trained": 1}, "training"),
    ],
)
def test_a_phases_state(jobs: list[tuple[str, str]], reached: dict[str, int], expected: str) -> None:
    facts = [fact(kind, state) for kind, state in jobs]
    given = {"trained": 0, "domains": 2, "bundled": False, "deployed": False, **reached}
    state = phase_state(
        facts,
        trained=given["trained"],
        domains=given["domains"],
        bundled=bool(given["bundled"]),
        deployed=bool(given["deployed"]),
    )
    assert state == expected
    assert state in PHASE_STATES


def test_another_bases_success_does_not_hide_a_failure() -> None:
    jobs = [fact("convert", "failed", subject="one"), fact("convert", "succeeded", subject="two")]
    assert phase_state(jobs, trained=2, domains=2, bundled=False, deployed=False) == "failed"


@pytest.mark.parametrize("state", ["failed", "running"])
def test_exporting_a_domain_is_no_step_of_its_phase(state: str) -> None:
    jobs = [fact(kind, state, "business") for kind in ("merge", "convert", "quantize", "verify")]
    assert phase_state(jobs, trained=2, domains=2, bundled=True, deployed=True) == "deployed"
    of_a_merged_phase = phase_state(jobs[-1:], trained=2, domains=2, bundled=False, deployed=False, merged=True)
    assert of_a_merged_phase == "merging"


@pytest.mark.parametrize(
    ("state", "facts", "words"),
    [
        ("planning", {"domains": 0}, "add-domain 3"),
        ("planning", {}, "build-phase 3"),
        ("training", {}, "goes on from here"),
        ("compressing", {"bundled": True}, "deploy-phase 3"),
        ("failed", {}, "build-phase 3 again"),
        ("failed", {"bundled": True}, "deploy-phase 3 again"),
        ("deployed", {"bundled": True}, "advance-phase"),
        ("deployed", {"bundled": True, "newer": True}, "deploy-phase 3"),
        ("deployed", {"bundled": True, "current": False}, "build again"),
    ],
)
def test_the_next_step_is_named(state: str, facts: dict[str, int], words: str) -> None:
    given = {"bundled": False, "newer": False, "domains": 2, **facts}
    said = next_step(
        state,
        number=3,
        bundled=bool(given["bundled"]),
        domains=given["domains"],
        newer=bool(given["newer"]),
        current=bool(given.get("current", True)),
    )
    assert words in said
    assert ("advance-phase" in said) == (state == "deployed" and given.get("current", True) is True)


def test_job_states_are_either_active_or_final() -> None:
    assert not set(ACTIVE_JOB_STATES) & set(FINAL_JOB_STATES)
