"""The panes show what the store says, at both sizes, and keep their places while it changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.store.views import Measurement, PhaseView, Snapshot
from tara_tui.details import job_lines, measurement_line, outcome_lines
from tara_tui.dialogs import TextDialog
from tara_tui.meters import Gpu, Meters
from tara_tui.widgets.transcript import Entry
from tests.tara_tui.fake_backend import FakeBackend, make_job, make_snapshot
from tests.tara_tui.screen import SIZES, console


@pytest.mark.parametrize("size", SIZES)
async def test_dashboard_shows_phases_domains_log_and_chat(tmp_path: Path, size: tuple[int, int]) -> None:
    async with console(FakeBackend(tmp_path), size) as it:
        await it.shows("step 140/400 loss 1.600")
        text = it.text()
        lines = text.split("\n")
        assert len(lines) == size[1]
        assert all(len(line) <= size[0] for line in lines)
        phase = next(line for line in lines if ">1 training" in line)
        assert "2/4" in phase
        assert "Q4_K_M" in phase
        assert "v2" in phase
        assert "2 planning" in text
        business = next(line for line in lines if "business  " in line)
        assert "training 35%" in business
        assert "1.234" in business
        assert "not measured" in business
        education = next(line for line in lines if "education " in line)
        assert "2.31>1.20" in education
        assert "61.2%" in education
        assert "complete*" in next(line for line in lines if "legal " in line)
        assert "* declared, not measured" in text
        assert "Log  job 12 train business: running 140/400 35%" in text
        assert "Chat  phase 1 v2  routed" in text
        assert ("runner 4242" if size[0] > 100 else "runner on") in lines[0]
        assert "1 running, 1 queued" in lines[0]
        assert "? help" in lines[-1]
        assert "q quit" in lines[-1]
        assert "[" not in lines[-1]


async def test_it_opens_on_the_current_phase_and_follows_only_its_own_advance(tmp_path: Path) -> None:
    def current(number: int) -> Snapshot:
        found = make_snapshot()
        return replace(found, phases=tuple(replace(one, current=one.number == number) for one in found.phases))

    backend = FakeBackend(tmp_path, current(2))
    async with console(backend, SIZES[0]) as it:
        await it.shows("Domains of phase 2", "travel")
        await it.put(current(1))  # somebody else's doing
        await it.shows(">1 training", "Domains of phase 2")
        await it.put(current(2))
        it.app.whereto.follows_current = True  # as this console's own wish leaves it
        await it.put(current(1))
        await it.shows("Domains of phase 1", "business")


@pytest.mark.parametrize("size", SIZES)
async def test_jobs_mode_lists_jobs_over_the_log_of_the_selected_one(tmp_path: Path, size: tuple[int, int]) -> None:
    async with console(FakeBackend(tmp_path), size) as it:
        await it.press("2")
        await it.shows("Jobs  1 running, 1 queued", "train healthcare", "package phase 1", "140/400")
        assert it.focused() == "jobs"
        await it.until(lambda: it.app.jobs.key == 12, "the dashboard's job stays selected")
        await it.press("j")
        await it.shows("Log  job 9 train healthcare: failed", "Traceback: out of memory", "out of memory: 6.1 GB")
        await it.press("1")
        await it.shows("Domains of phase 1")


async def test_sizes_in_between_and_too_small(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (60, 18)) as it:
        await it.shows("business", "Log  job 12", "Chat")
        await it.pilot.resize_terminal(59, 18)
        await it.shows("This terminal is 59x18", "needs 60x18", "Jobs go on")
        await it.pilot.resize_terminal(200, 50)
        await it.shows("Domains of phase 1", "Log  job 12")


async def test_store_changes_reach_the_screen_and_the_cursor_stays_with_its_row(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    async with console(FakeBackend(tmp_path, snapshot)) as it:
        await it.press("2")
        await it.until(lambda: it.app.jobs.key == 12, "the running job is selected")
        newer = tuple(make_job(id, title=f"quantize {id}", kind="quantize") for id in range(60, 19, -1))
        await it.put(replace(snapshot, jobs=(*newer, *snapshot.jobs)))
        assert it.app.jobs.key == 12
        await it.shows("train business")
        await it.put(snapshot)
        assert it.app.jobs.key == 12
        await it.put(replace(snapshot, jobs=tuple(job for job in snapshot.jobs if job.id != 12)))
        assert it.app.jobs.key == 9


async def test_only_changed_rows_are_repainted(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    async with console(FakeBackend(tmp_path, snapshot)) as it:
        await it.press("2")
        painted: list[object] = []
        rows = it.app.jobs
        original = rows.refresh

        def refresh(*regions, **options):  # type: ignore[no-untyped-def]
            painted.append(regions)
            return original(*regions, **options)

        rows.refresh = refresh  # type: ignore[method-assign]
        await it.put(snapshot)
        assert painted == []
        moved = tuple(replace(job, step=141) if job.id == 12 else job for job in snapshot.jobs)
        await it.put(replace(snapshot, jobs=moved))
        assert [len(regions) for regions in painted] == [1]  # type: ignore[arg-type]
        await it.shows("141/400")


async def test_phase_cursor_chooses_domains_and_says_what_is_missing(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("shift+tab")
        assert it.focused() == "phases"
        await it.press("j")
        await it.shows("Domains of phase 2", "travel", "nothing to talk to in phase 2 yet: b builds it", "Log  no job")


async def test_empty_workspace_says_what_to_press(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path, Snapshot(1, (), (), None, 0.0)), (80, 24)) as it:
        await it.shows("no phase yet: n makes one", "runner off", "Log  no job")


async def test_failed_read_says_not_current_and_recovers(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend, (80, 24)) as it:
        backend.reading_error = OSError("disk [/gone]")
        await it.shows("NOT CURRENT: OSError: disk [/gone]", "business")
        backend.reading_error = None
        await it.until(lambda: not it.app.trouble, "the store is read again")
        await it.shows("runner on")
        assert backend.readers == 2


async def test_filter_narrows_and_escape_shows_all(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("slash")
        await it.write("complete !legal")
        await it.shows("/complete !legal 1 of 4")
        assert [row.key for row in it.app.domains.shown] == ["education"]
        await it.press("enter")
        assert it.focused() == "domains"
        await it.press("escape")
        await it.until(lambda: len(it.app.domains.shown) == 4, "all rows")
        await it.press("slash")
        await it.write("zzz")
        await it.shows("nothing holds 'zzz'")
        await it.press("escape")
        await it.until(lambda: len(it.app.domains.shown) == 4, "all rows")


async def test_details_give_method_and_date(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("j", "enter")
        await it.shows("Domain education", "held-out token accuracy, 40 examples, seed 7, n=412", "2027-01-15")
        await it.press("escape", "j", "enter")
        await it.shows("choose the preset small", "quality       not measured")


async def test_details_of_a_phase_tell_what_came_of_it_or_why_that_cannot_be_read(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("shift+tab", "enter")
        await it.shows("Phase 1", "verification, answers that passed: healthcare 3 of 3", "held-out loss", "2.310")
        await it.press("escape", "j", "enter")
        await it.shows("Phase 2", "state", "the store cannot be read")


async def test_a_long_text_keeps_its_beginning(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        it.app.push_screen(TextDialog("Long", [Entry("the beginning"), *(Entry(f"line {n}") for n in range(400))]))
        await it.shows("the beginning", "line 1")


def test_a_wide_table_becomes_several() -> None:
    losses = (("loss", "first 105 MB", "second 271 MB"), [("healthcare", "1.0", "2.0")])
    said, head, row, second, other = outcome_lines(["a sentence", losses], 24)
    assert said == " a sentence"
    assert (head, row) == ("loss        first 105 MB", " healthcare           1.0")
    assert (second, other) == ("loss        second 271 MB", " healthcare            2.0")


def test_details_count_bytes_once_and_to_the_last_one() -> None:
    line = measurement_line("bytes", Measurement("bytes", 4_884_320, "size of the file", 0.0, unit="B"))
    assert line.startswith("bytes         4.9 MB, 4,884,320 bytes  (size of the file")
    deploying = replace(make_snapshot().jobs[0], step=50_000_000, total=100_000_000, unit="B")
    assert "progress      50M/100M 50%" in job_lines(deploying)


async def test_meters_with_and_without_gpu(tmp_path: Path) -> None:
    meters = Meters(12, "3.1G", "8.0G", 39, "40G", 41, Gpu(93, 20 * 10**9, 139 * 10**9))
    async with console(FakeBackend(tmp_path)) as it:
        from tara_tui.messages import MetersSampled

        it.app.post_message(MetersSampled(meters))
        await it.shows("cpu 12%", "mem 3.1G/8.0G", "disk 40G free", "gpu 93%")
        it.app.post_message(MetersSampled(replace(meters, gpu=None)))
        await it.until(lambda: "gpu" not in it.text(), "no GPU, no meter")


HOSTILE = (
    "loss=[nan]",
    "[/foo]",
    "[@click=app.quit]x[/]",
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\x9b31m",
    "a\x00b\u202ec",
    "[red",
)


@pytest.mark.parametrize("words", HOSTILE)
async def test_hostile_text_everywhere_neither_crashes_nor_leaks(tmp_path: Path, words: str) -> None:
    snapshot = make_snapshot()
    first = snapshot.phases[0]
    job = replace(snapshot.jobs[1], title=words, state="failed", error=words, hint=words, message=words, kind=words)
    domain = replace(first.domains[0], name=f"x{words}", job=job, base=words, adapter_path=words)
    measured = Measurement("quality", words, words, 0.0)
    hostile: PhaseView = replace(
        first, quantization=words, domains=(replace(domain, measurements={"quality": measured}),), bundle_path=words
    )
    backend = FakeBackend(tmp_path, replace(snapshot, phases=(hostile,), jobs=(job, *snapshot.jobs[2:])))
    backend.write_log(12, f"{words}\nplain {words} text\n{words}")
    backend.words = [words, " then ", words]
    async with console(backend, (80, 24)) as it:
        await it.shows("plain ")
        for key in ("enter", "escape", "2", "enter", "escape", "3", "1", "slash"):
            await it.press(key)
            assert_harmless(it.text())
        await it.press("escape", "i")
        await it.write(words if words.isprintable() else "hello")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer ended")
        assert_harmless(it.text())
        it.app.tell(words, failed=True)
        await it.press("f1")
        assert_harmless(it.text())
        if words.isprintable():
            assert words in "\n".join(it.app.log_pane.lines)
            assert words in it.app.chat.answer


def assert_harmless(text: str) -> None:
    """No control character on the screen but the ends of lines."""
    bad = [
        letter
        for letter in text
        if letter != "\n" and (ord(letter) < 32 or 127 <= ord(letter) < 160 or letter == "\u202e")
    ]
    assert bad == []
