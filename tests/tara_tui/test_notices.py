"""A bell and a notice when something that took a while is over."""

from dataclasses import replace
from pathlib import Path

from core.store.views import Snapshot
from tara_tui.selection import ended_meanwhile
from tara_tui.terminal import notice_sequence
from tests.tara_tui.fake_backend import FakeBackend, make_snapshot
from tests.tara_tui.screen import console


def ended(state: str, seconds: float) -> Snapshot:
    """The usual snapshot, in which job 12 is over after so many seconds."""
    found = make_snapshot()
    jobs = tuple(
        replace(job, state=state, started_at=1000.0, ended_at=1000.0 + seconds) if job.id == 12 else job
        for job in found.jobs
    )
    return replace(found, jobs=jobs)


def test_only_what_ran_a_while_and_is_over_is_told() -> None:
    before = make_snapshot()
    assert [job.id for job in ended_meanwhile(before, ended("succeeded", 60))] == [12]
    assert [job.id for job in ended_meanwhile(before, ended("failed", 60))] == [12]
    assert ended_meanwhile(before, ended("succeeded", 2)) == []
    assert ended_meanwhile(before, ended("paused", 60)) == []
    assert ended_meanwhile(before, before) == []
    assert ended_meanwhile(None, ended("succeeded", 60)) == []
    assert ended_meanwhile(ended("succeeded", 60), ended("succeeded", 60)) == []


def test_the_terminal_is_told_also_through_tmux_and_screen() -> None:
    assert notice_sequence("TARA: done", {"TERM": "xterm"}) == "\a\x1b]9;TARA: done\x07"
    assert notice_sequence("TARA: done", {"TMUX": "x"}) == "\a\x1bPtmux;\x1b\x1b]9;TARA: done\x07\x1b\\"
    assert notice_sequence("TARA: done", {"TERM": "screen"}) == "\a\x1bP\x1b]9;TARA: done\x07\x1b\\"
    assert len(notice_sequence("x" * 9999, {})) < 300


async def test_the_console_says_it(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.put(ended("succeeded", 90))
        await it.shows("train business succeeded")
