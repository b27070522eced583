"""Every command has a key, a place in the palette and help; says why it is disabled; and does what it says."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import BelowThreshold, InvalidInput, SettingsChanged
from core.phases.merging import MergeWish
from core.phases.service import Asked
from core.store.views import DomainView
from tara_tui.actions import Actions
from tara_tui.commands import COMMANDS, bindings
from tara_tui.details import table_lines
from tara_tui.dialogs import ConfirmDialog, FormDialog, PaletteDialog, TextDialog, UnfinishedDialog
from tara_tui.widgets.row_list import RowList
from tests.tara_tui.fake_backend import FakeBackend, make_job, make_snapshot
from tests.tara_tui.screen import console, idle


def test_every_command_has_key_help_and_method_and_no_key_is_taken_twice() -> None:
    keys = [key for command in COMMANDS for key in command.key.split(",")]
    assert len(keys) == len(set(keys))
    assert {binding.key for binding in bindings()} == set(keys)
    for command in COMMANDS:
        assert command.help.endswith((".", "OSC 52."))
        assert callable(getattr(Actions, command.id)), command.id
    assert not {"ctrl+b", "ctrl+a", "ctrl+s", "ctrl+m", "ctrl+i", "ctrl+h"} & set(keys)


async def test_palette_and_help_list_every_command(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("colon")
        await it.until(lambda: isinstance(it.app.screen, PaletteDialog), "the palette")
        rows = {row.key: row for row in it.app.screen.query_one(RowList).rows}
        assert set(rows) == {command.id for command in COMMANDS} - {"palette"}
        assert "not now: job 12 is running" in rows["retry"].cells[2].text
        await it.press("escape", "question_mark")
        await it.until(lambda: isinstance(it.app.screen, TextDialog), "the help")
        said = "\n".join(entry.text for entry in it.app.screen.query_one("#reading").entries)  # type: ignore[attr-defined]
        assert "Domains of the selected phase" in said
        for command in COMMANDS:
            assert f"{command.title}: {command.help}" in said


async def test_palette_runs_a_command(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("ctrl+p")
        await it.write("build ph")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("build", 1)], "the wish")
        await it.shows("done: build 1")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("t", "Train domain: business is in job 12 already (running)"),
        ("r", "Retry job: job 12 is running: only a failed"),
        ("d", "Deploy phase: jobs of phase 1 are not done (business)"),
        ("f8", "Stop the answer: no answer is being made"),
    ],
)
async def test_disabled_key_says_why(tmp_path: Path, key: str, reason: str) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press(key)
        await it.until(lambda: any(reason in note.message for note in it.app._notifications), reason)
        assert it.backend.wishes == []


@pytest.mark.parametrize(
    ("key", "reason"), [("R", "is not deployed"), ("i", "nothing to talk to yet"), ("c", "no job")]
)
async def test_disabled_key_says_why_in_a_planned_phase(tmp_path: Path, key: str, reason: str) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("shift+tab", "j", key)
        await it.until(lambda: any(reason in note.message for note in it.app._notifications), reason)


async def test_cancel_asks_and_names_what_waits(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("c")
        await it.shows("Cancel job 12?", "will be blocked: 13")
        await it.press("enter")
        await it.until(lambda: not isinstance(it.app.screen, ConfirmDialog), "Enter leaves it")
        assert it.backend.wishes == []
        await it.press("c", "y")
        await it.until(lambda: it.backend.wishes == [("cancel", 12)], "the wish")


async def test_a_job_that_waits_for_memory_says_so_and_is_started_anyway_after_a_question(tmp_path: Path) -> None:
    said = "waits for memory: it takes about 9000 MB (estimated), 3000 MB are free for it"
    snapshot = make_snapshot()
    waiting = make_job(40, title="train legal", message=said)
    async with console(FakeBackend(tmp_path, replace(snapshot, jobs=(waiting, *snapshot.jobs))), (80, 24)) as it:
        await it.press("s")
        await it.shows("job 12 does not wait for memory")
        await it.press("2", "g")
        await it.shows("train legal: waits")
        await it.press("s")
        await it.shows("Start job 40 anyway?", "it takes about 9000 MB")
        await it.press("y")
        await it.until(lambda: it.backend.wishes == [("let in", 40)], "the wish")


async def test_what_was_made_is_selected_so_that_the_next_key_is_for_it(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    third = replace(snapshot.phases[1], number=3, domains=())
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("n", "tab")
        await it.write("travel")
        await it.press("enter")
        await it.until(lambda: len(it.backend.wishes) == 1, "the wish")
        it.backend.put(replace(snapshot, phases=(*snapshot.phases, third)))
        await it.until(lambda: it.app.selection.phase is not None and it.app.selection.phase.number == 3, "it is there")
        await it.press("a")
        await it.shows("Add a domain to phase 3")
        await it.write("legal")
        await it.press("enter")
        await it.until(lambda: len(it.backend.wishes) == 2, "the wish")
        added = replace(
            third, domains=(*snapshot.phases[1].domains, DomainView("legal", 3, "pending", False, "b", None, None))
        )
        it.backend.put(replace(snapshot, phases=(*snapshot.phases, added)))
        await it.until(lambda: it.app.selection.domain is not None and it.app.selection.domain.name == "legal", "it is")
        await it.press("t")
        await it.until(lambda: it.backend.wishes[-1] == ("train", "legal"), "the training is of the new one")


async def test_a_domain_is_taken_out_after_a_question(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("x")
        await it.shows("business is in job 12 (running)")
        await it.press("j", "x")
        await it.shows("Take education out of phase 1?", "its adapter and measurements stay")
        await it.press("y")
        await it.until(lambda: it.backend.wishes == [("remove", 1, "education")], "the wish")


async def test_the_service_is_shown_installed_and_removed(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("W")
        await it.shows("installed: nothing", "after a restart: no", "install the service")
        await it.press("y")
        await it.until(lambda: it.backend.wishes == [("install service",)], "the wish")
        await it.press("W")
        await it.shows("installed: cron", "remove the service")
        await it.press("y")
        await it.until(lambda: it.backend.wishes[-1] == ("remove service",), "the wish")


async def test_retry_and_train_of_the_failed_domain(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("j", "j", "r", "t")
        await it.until(lambda: set(it.backend.wishes) == {("retry", 9), ("train", "healthcare")}, "the wishes")


async def test_retry_of_a_blocked_domain_goes_to_the_job_that_blocks_it(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    cancelled = make_job(30, state="cancelled", domain="business", title="train business")
    blocked = make_job(
        31, kind="evaluate", state="blocked", domain="business", depends_on=(30,), title="evaluate business"
    )
    first = snapshot.phases[0]
    domains = (replace(first.domains[0], job=blocked), *first.domains[1:])
    stuck = replace(snapshot, phases=(replace(first, domains=domains),), jobs=(blocked, cancelled))
    async with console(FakeBackend(tmp_path, stuck)) as it:
        await it.press("r")
        await it.until(lambda: it.backend.wishes == [("retry", 30)], "the wish")
        await it.press("2", "g", "r")
        await it.shows("retry job 30, which it waits for")


async def test_deploy_shows_target_and_version(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path, idle(make_snapshot())), (80, 24)) as it:
        await it.press("d")
        await it.shows("Deploy phase 1 as v3?", "releases/phase-1", "takes the place of v2", "phase-1-22222222")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("deploy", 1, "releases/phase-1", "")], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


@pytest.mark.parametrize(
    ("keys", "wish"),
    [
        (("b",), ("build", 1, "a trial")),
        (
            ("B", "enter"),
            ("build as", 1, Asked("Q4_K_M", "standard", "none", MergeWish("none"), False, None, "a trial")),
        ),
        (("d", "enter"), ("deploy", 1, "releases/phase-1", "a trial")),
    ],
)
async def test_below_the_quality_threshold_a_reason_is_asked_for(
    tmp_path: Path, keys: tuple[str, ...], wish: tuple[object, ...]
) -> None:
    backend = FakeBackend(tmp_path, idle(make_snapshot()))
    line = "education 0.612 measured (declared 0.99 does not count)"
    backend.below = BelowThreshold(f"below the quality threshold 0.9 of phase 1: {line}", "train longer", (line,))
    async with console(backend, (80, 24)) as it:
        await it.press(*keys)
        await it.shows("below the quality threshold 0.9 of phase 1", line, "reason to go on all the same")
        await it.press("enter")
        await it.shows("give a reason, or Esc leaves it")
        await it.write("a trial")
        await it.press("enter")
        await it.until(lambda: backend.wishes == [wish], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


async def test_roll_back_asks(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("R")
        await it.shows("Roll back phase 1?", "from v2 back to v1")
        await it.press("y")
        await it.until(lambda: it.backend.wishes == [("rollback", 1, 1, "releases/phase-1")], "the wish")


@pytest.mark.parametrize(("key", "answer"), [("o", "old"), ("f", "fresh"), ("escape", None)])
async def test_an_unfinished_training_with_other_settings_is_asked_about(
    tmp_path: Path, key: str, answer: str | None
) -> None:
    backend = FakeBackend(tmp_path)
    line = "healthcare: an unfinished training stands at step 40 of 120: learning_rate 0.001 -> 0.0003"
    backend.settings_changed = SettingsChanged(line, "choose", (line,), can_leave=True)
    async with console(backend, (80, 24)) as it:
        await it.press("j", "j", "t")
        await it.shows("Train healthcare?", "learning_rate 0.001 -> 0.0003", "old settings", "start afresh at step 0")
        await it.press(key)
        await it.until(lambda: not isinstance(it.app.screen, UnfinishedDialog), "it closes")
        wanted = [("train", "healthcare", answer)] if answer else []
        await it.until(lambda: backend.wishes == wanted, "the wish")


async def test_beside_an_active_training_nothing_is_started_afresh(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    line = "business: job 12 (running) has other settings: epochs 1 -> 2"
    backend.settings_changed = SettingsChanged(line, "choose", (line,), can_leave=False)
    async with console(backend, (80, 24)) as it:
        await it.press("b")
        await it.shows("Build phase 1?", "epochs 1 -> 2", "cancel that job first")
        await it.press("f")
        assert isinstance(it.app.screen, UnfinishedDialog)
        await it.press("o")
        await it.until(lambda: backend.wishes == [("build", 1, "old")], "the wish")


async def test_checkpoints_of_the_selected_domain_are_shown(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("K")
        await it.shows("Checkpoints of business", "business-1a2b3c4d: step 40 of 120", "goes on: from step 40")
        await it.press("escape", "j", "K")
        await it.shows("Checkpoints of education", "no training of it is unfinished")


async def test_the_plan_of_the_phase_or_from_its_pane_of_the_domain_is_shown(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("P")
        await it.shows("Plan of domain business", "train business  1.2G m")
        await it.press("escape", "shift+tab", "P")
        await it.shows("Plan of phase 1", "job 0 of phase 1")
        assert "the end" not in it.text()
        await it.press("G")
        await it.shows("the end")
        await it.press("escape", "j", "P")
        await it.shows("Plan of phase 2")
        assert it.backend.wishes == [("plan", "business"), ("plan", 1), ("plan", 2)]


async def test_the_models_of_the_phase_are_compared_and_measured(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("M")
        await it.shows("Models of phase 1", "beside them")
        await it.press("enter")
        await it.shows("Models of phase 1", "figure  base-F16  base-Q4_K_M", "size    271 MB    105 MB")
        await it.press("escape", "M")
        await it.shows("beside them")
        await it.write("nothing")
        await it.press("enter")
        await it.shows("there is no artifact nothing", "beside them")
        await it.press(*["backspace"] * 7)
        await it.write("phase:2 7")
        await it.press("enter")
        await it.shows("figure  base-F16  base-Q4_K_M")
        await it.press("escape", "m")
        compared = [("compare", 1, ""), ("compare", 1, "nothing"), ("compare", 1, "phase:2 7")]
        await it.until(lambda: it.backend.wishes == [*compared, ("measure", 1)], "the wish")


async def test_the_ways_to_build_are_shown_once_it_was_said_what_a_file_may_take(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("o")
        await it.shows("Ways to build phase 1", "most megabytes of each base's file", "least quality", "speed counts")
        await it.write("x")
        await it.press("enter")
        await it.shows("no target x")
        await it.press("backspace")
        await it.write("90")
        await it.press("tab")
        await it.write("kl:0.1")
        await it.press("enter")
        await it.shows("phase 1: files of at most 90 MB", "Q4_K_M hybrid", "to build it: tara build-phase")
        assert it.backend.wishes[-1] == ("recommend", 1, "90", "kl:0.1", "", "no")
        await it.press("escape")
        await it.until(lambda: len(it.app.screen_stack) == 1, "all windows are closed")


async def test_stopped_runner_is_said_and_started(tmp_path: Path) -> None:
    stopped = replace(make_snapshot(), runner_pid=None, runner_stopped=True)
    async with console(FakeBackend(tmp_path, stopped), (80, 24)) as it:
        await it.shows("runner stopped: S starts it")
        await it.press("S")
        await it.until(lambda: it.backend.wishes == [("runner",)], "the wish")


async def test_a_runner_that_is_gone_is_started_once(tmp_path: Path) -> None:
    gone = replace(make_snapshot(), runner_pid=None)
    async with console(FakeBackend(tmp_path, gone), (80, 24)) as it:
        await it.until(lambda: it.backend.wishes == [("revive",)], "the wish")
        await it.put(replace(gone, taken_at=gone.taken_at + 9))
        assert it.backend.wishes == [("revive",)]
        await it.put(make_snapshot())
        await it.put(gone)
        await it.until(lambda: it.backend.wishes == [("revive",)] * 2, "the next time it is gone")


async def test_a_job_is_paused_and_goes_on(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("p")
        await it.until(lambda: it.backend.wishes == [("pause", 12)], "the wish")
        found = make_snapshot()
        jobs = tuple(replace(job, state="paused") if job.id == 12 else job for job in found.jobs)
        await it.put(replace(found, jobs=jobs))
        await it.press("2", "p")
        await it.until(lambda: it.backend.wishes[1:] == [("resume", 12)], "the other wish")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidInput("no data for [/business]", "put data/business.jsonl"), "no data for [/business] — put data"),
        (RuntimeError("boom [nan]"), "RuntimeError: boom [nan] (details in runs/console.log)"),
    ],
)
async def test_errors_of_services_are_one_line(tmp_path: Path, error: Exception, line: str) -> None:
    backend = FakeBackend(tmp_path)
    backend.error = error
    async with console(backend) as it:
        await it.press("b")
        await it.until(lambda: any(line in note.message for note in it.app._notifications), line)
        assert not any(note.markup for note in it.app._notifications)
        await it.press("A")
        await it.until(lambda: any("not deployed" in note.message for note in it.app._notifications), "refusal")


async def test_modes_have_keys_also_while_typing(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        for keys, mode in (("3", "logs"), ("4", "chat"), ("f3", "jobs"), ("f5", "chat"), ("f2", "dashboard")):
            await it.press(keys)
            await it.until(lambda wanted=mode: it.app.mode == wanted, mode)  # type: ignore[misc]
        assert it.focused() == "domains"


async def test_quit_leaves_with_status_0(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("q")
    assert it.app.return_value == 0


def test_the_head_of_a_table_stands_over_its_columns() -> None:
    head, row = table_lines(("", "base-F16"), [("bits a weight", "16.00")])
    assert head.startswith("figure")
    assert row.index("16.00") == head.index("base-F16") + 1  # the blank that marks a row is not shown
