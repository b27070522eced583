"""What an end is called, and how often it is tried again."""

import itertools
import signal

import pytest

from core.runner.executors import Exit
from core.runner.verdict import LONGEST_S, POLICY, judge, wait_before_retry


def ended(**fields: object) -> Exit:
    return Exit(**{"code": None, "signal": None, "stopped": False, "started": 1.0, "ended": 2.0, **fields})  # type: ignore[arg-type]


ENDS = {
    "runner saw memory go": (ended(signal=9, why_killed="memory", rss_bytes=3 * 10**9), None, "memory", "held 3000 MB"),
    "runner saw it hang": (ended(signal=9, why_killed="hung"), None, "hung", "it hung"),
    "machine restarted": (ended(rebooted=True), None, "reboot", "restarted while it ran"),
    "nobody knows": (ended(), None, "lost", "without an exit record"),
    "kernel, its group": (ended(signal=9, oom_kills_group=1), None, "memory", "the kernel killed it"),
    "kernel, the machine": (ended(signal=9, oom_kills_machine=1), None, "memory", "a process of this machine"),
    "little was left": (
        ended(signal=9, available_bytes=90_000_000, peak_rss_bytes=7 * 10**9),
        None,
        "memory",
        "probably for lack of memory (it held 7000 MB, 90 MB were free)",
    ),
    "somebody": (ended(signal=9, available_bytes=9 * 10**9, oom_kills_machine=0), None, "killed", "from outside"),
    "machine going down": (ended(code=143, stopped=True), None, "killed", "stopped from outside"),
    "terminated": (ended(signal=15), None, "killed", "stopped from outside"),
    "hung up": (ended(signal=1), None, "killed", "SIGHUP"),
    "native fault": (ended(signal=signal.SIGSEGV), None, "fault", "SIGSEGV"),
    "torch was refused memory": (ended(code=3), "memory", "memory", "the task's words"),
    "full disk": (ended(code=3), "disk", "disk", "the task's words"),
    "explained": (ended(code=3), None, "error", "the task's words"),
    "a class nobody knows": (ended(code=3), "strange", "error", "the task's words"),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_have_names(name: str) -> None:
    end, told_class, failure, words = ENDS[name]
    verdict = judge(end, "the task's words", told_class)
    assert verdict.failure == failure
    assert words in verdict.error


def test_without_a_word_the_exit_status_is_told() -> None:
    assert judge(ended(code=1), None, None).error == "exit status 1"


@pytest.mark.parametrize("failure", POLICY)
def test_retries_wait_longer_each_time_and_end(failure: str) -> None:
    waits = [wait_before_retry(failure, [failure] * times, 5.0) for times in range(1, POLICY[failure].retries + 2)]
    assert waits[-1] is None
    given = [wait for wait in waits if wait is not None]
    assert len(given) == POLICY[failure].retries
    assert all(first <= second <= LONGEST_S for first, second in itertools.pairwise(given))


def test_other_failures_do_not_use_up_the_tries() -> None:
    assert wait_before_retry("killed", ["lost", "lost", "killed"], 5.0) == 5.0
    assert wait_before_retry("error", ["error"], 5.0) is None
