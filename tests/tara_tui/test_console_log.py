"""Logs are read from their end, bounded, through rotation and truncation; the view follows until one scrolls up."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

from core.text import clean
from tara_tui.panes.log import LogPane, clean_line
from tara_tui.widgets.log_file import MAX_LINE, TAIL_BYTES, LogFile, lines_before
from tara_tui.widgets.log_view import MAX_LINES
from tests.tara_tui.fake_backend import FakeBackend, make_snapshot
from tests.tara_tui.screen import console


def append(path: Path, text: str | bytes) -> None:
    """Write at the end of a file."""
    with open(path, "ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_missing_then_made_then_grown(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path, clean)
    first = file.poll()
    assert first is not None
    assert (first.reset, first.lines, first.note) == (True, (), "no log yet")
    assert file.poll() is None
    append(path, "one\ntwo")
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.reset, chunk.lines, chunk.partial) == (True, ("one",), "two")
    append(path, " halves\nthree\n")
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.reset, chunk.lines, chunk.partial) == (False, ("two halves", "three"), "")
    assert file.poll() is None
    file.close()


def test_rotation_and_truncation_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, "old\n" * 10)
    file = LogFile(path, clean)
    file.poll()
    os.rename(path, tmp_path / "log.1")
    append(path, "new\n")
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.reset, chunk.lines, chunk.note) == (True, ("new",), "the file was replaced")
    os.truncate(path, 0)
    append(path, "a\n")
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.reset, chunk.lines, chunk.note) == (True, ("a",), "the file was cut")
    file.close()


def test_carriage_returns_are_folded_and_the_unfinished_line_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"\r".join(b"%3d%%" % n for n in range(100)))
    file = LogFile(path, clean)
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.lines, chunk.partial) == ((), " 99%")
    append(path, b"\r100%\r\nwindows line\r\n")
    chunk = file.poll()
    assert chunk is not None
    assert (chunk.lines, chunk.partial) == (("100%", "windows line"), "")
    file.close()


def test_huge_lines_and_broken_bytes_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"")
    file = LogFile(path, clean)
    file.poll()
    append(path, b"x" * 3_000_000)
    file.poll()
    append(path, b"y" * 3_000_000 + b"\n\xff\xfe broken\n")
    chunk = file.poll()
    assert chunk is not None
    huge, broken = chunk.lines
    assert len(huge) <= MAX_LINE + 4
    assert huge.startswith("xxx")
    assert broken == "\ufffd\ufffd broken"
    file.close()


def test_opening_costs_the_same_at_any_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as out:
        out.truncate(8 << 30)  # sparse
        out.seek(0, os.SEEK_END)
        out.write(b"\n" + b"last lines\n" * 100)
    file = LogFile(path, clean)
    began = time.perf_counter()
    chunk = file.poll()
    assert time.perf_counter() - began < 1.0
    assert chunk is not None
    assert chunk.lines[-1] == "last lines"
    assert chunk.start >= (8 << 30) - TAIL_BYTES
    file.close()


def test_lines_before_join_seamlessly(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"line {n} with some words" for n in range(50_000)]
    append(path, "\n".join(lines) + "\n")
    file = LogFile(path, clean)
    chunk = file.poll()
    assert chunk is not None
    found, start = list(chunk.lines), chunk.start
    while start:
        earlier, start = lines_before(path, start, clean)
        found[:0] = earlier
    assert found == lines
    file.close()


def test_a_hundred_thousand_lines_are_read_fast(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, "start\n")
    file = LogFile(path, clean_line)
    file.poll()
    append(path, "".join(f"\x1b[32mstep {n}\x1b[0m loss 1.234 tokens/s 91\n" for n in range(100_000)))
    began = time.perf_counter()
    count, last = 0, ""
    while chunk := file.poll():
        count += len(chunk.lines) + chunk.uncounted
        last = chunk.lines[-1]
    assert time.perf_counter() - began < 5.0  # about 0.3 s on an idle machine
    assert count == 100_000
    assert last == "step 99999 loss 1.234 tokens/s 91"
    file.close()


async def test_view_follows_then_counts_then_follows_again(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend, (80, 24)) as it:
        log = it.app.log_pane
        await it.shows("step 140/400")
        await it.press("tab", "k", "k")
        assert it.focused() == "log"
        assert not log.follow
        top = log.top
        backend.write_log(12, "later 1\nlater 2\nunfinished")
        await it.shows("+2 new lines, G follows")
        assert log.top == top
        assert "later 1" not in it.text()
        await it.press("G")
        await it.shows("later 2", "unfinished")
        assert "new lines" not in log.title
        backend.write_log(12, " no more\n")
        await it.shows("unfinished no more")


async def test_view_is_bounded_and_loses_no_count(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend, (80, 24)) as it:
        log = it.app.log_pane
        await it.shows("step 140/400")
        await it.press("tab", "k")
        backend.write_log(12, "".join(f"many {n}\n" for n in range(100_000)))
        await it.until(lambda: log.unseen == 100_000, "all lines are counted")
        await it.press("G")
        backend.write_log(12, "the end\n")
        await it.shows("many 99999", "the end")
        assert len(log.lines) <= MAX_LINES


async def test_scrolling_above_the_first_line_loads_older_ones(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    backend.write_log(12, "".join(f"old line {n} {'.' * 60}\n" for n in range(20_000)))
    async with console(backend, (80, 24)) as it:
        log = it.app.log_pane
        await it.shows("old line 19999")
        held = len(log.lines)
        await it.press("tab", "g")
        first = log.lines[0]
        await it.press("k")
        await it.until(lambda: len(log.lines) > held, "older lines")
        assert log.lines[log.top + 1] == first or log.lines[log.top] == first


async def test_filter_keeps_what_comes_later(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend, (120, 36)) as it:
        await it.shows("step 140/400")
        await it.press("3", "slash")
        await it.write("ste 7/")
        await it.press("enter")
        await it.until(lambda: len(it.app.log_pane.shown) == 14, "only those")
        backend.write_log(12, "step 147/400\nstep 148/400\n")
        await it.until(lambda: it.app.log_pane.shown[-1:] == ["step 147/400"], "the new match")
        await it.shows("/ste 7/ 15 of 142")


async def test_log_changes_with_the_job_and_with_its_attempt(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    backend = FakeBackend(tmp_path, snapshot)
    async with console(backend) as it:
        await it.shows("step 140/400")
        await it.press("j", "j")
        await it.shows("Traceback: out of memory")
        folder = tmp_path / "runs" / "9.2"
        folder.mkdir()
        (folder / "log").write_text("second attempt\n")
        again = replace(snapshot.jobs[2], run_dir="runs/9.2", attempt=2, state="running", error=None)
        first = snapshot.phases[0]
        domains = tuple(replace(one, job=again) if one.name == "healthcare" else one for one in first.domains)
        await it.put(replace(snapshot, phases=(replace(first, domains=domains),)))
        await it.shows("second attempt")
        assert "Traceback" not in it.text()


async def test_ten_thousand_lines_a_second_leave_the_loop_free(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.shows("step 140/400")
        loop = asyncio.get_running_loop()
        worst = 0.0
        for batch in range(5):
            backend.write_log(12, "".join(f"batch {batch} line {n}\n" for n in range(10_000)))
            began = loop.time()
            await asyncio.sleep(0)
            worst = max(worst, loop.time() - began)
            await it.shows(f"batch {batch} line 9999")
        assert worst < 0.5
        assert isinstance(it.app.log_pane, LogPane)
