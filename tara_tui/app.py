"""The console: one screen of live panes, kept true by the store."""

import logging
import os
import sys
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Input, Static

from core.errors import ExitCode
from core.store.views import JobView, Snapshot
from core.workspace import Workspace
from tara_tui import present, terminal
from tara_tui.actions import Actions
from tara_tui.backend import Backend, Bundle
from tara_tui.commands import bindings
from tara_tui.dialogs import FormDialog, line_input
from tara_tui.feed import watch_machine, watch_store
from tara_tui.lines import keys_line, status_line
from tara_tui.messages import ActionEnded, MetersSampled, SnapshotArrived, StoreFailed
from tara_tui.meters import Meters
from tara_tui.panes.chat import ChatPane
from tara_tui.panes.lists import DomainsPane, JobsPane, PhasesPane, job_counts
from tara_tui.panes.log import LogPane
from tara_tui.selection import MODES, Selection, bundles, cause, ended_meanwhile, phase_job
from tara_tui.whereto import Whereto
from tara_tui.widgets.log_view import LogView
from tara_tui.widgets.row_list import RowList

WIDE = (110, 30)  # from this size on lists and texts stand side by side
NARROW = 80  # below it fewer columns
STARTING_S = 5.0  # a runner that is just starting is not one that is gone
PANES = ("phases", "domains", "jobs", "log", "chat")
FIRST_FOCUS = {"dashboard": "domains", "jobs": "jobs", "logs": "log", "chat": "question"}
log = logging.getLogger("tara.console")


class ConsoleApp(App[int]):
    """The console over a backend. It holds the last snapshot and what is selected; panes are shown parts of both."""

    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = False
    TITLE = "TARA"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings()]

    def __init__(self, backend: Backend, *, on_terminal: bool = False, machine: bool = True) -> None:
        super().__init__()
        self.animation_level = "none"
        self.theme = "ansi-dark"  # the terminal's own colours: right in 16 of them, and fewer bytes
        self.backend = backend
        self.snapshot: Snapshot | None = None
        self.selection = Selection()
        self.meters: Meters | None = None
        self.trouble = ""
        self.mode = "dashboard"
        self.looked_at = "domains"  # the list whose job the log shows
        self.whereto = Whereto()
        self._revived = False  # tried since the runner was last seen
        self._off_since: float | None = None
        self.chat_forced = False
        self.chat_choice = 0
        self.chat_artifact: Bundle | None = None  # talked to whatever is selected
        self.actions = Actions(self)
        self.on_terminal = on_terminal
        self._with_machine = machine
        self._stop = threading.Event()
        self._look = threading.Event()
        self._shown: dict[str, Content] = {}
        self._filtered: RowList | LogView | None = None
        self._lists_height: int | None = None
        self.phases = PhasesPane()
        self.domains = DomainsPane()
        self.jobs = JobsPane()
        self.log_pane = LogPane()
        self.chat = ChatPane(backend)

    @property
    def base(self) -> Screen[object]:
        """The screen with the panes, below any window."""
        return self.screen_stack[0]

    def compose(self) -> ComposeResult:
        """A line of state, the panes, a line of keys."""
        yield Static(id="status")
        with Container(id="body"):
            with Container(id="lists"):
                yield self.phases
                yield self.domains
                yield self.jobs
            with Container(id="texts"):
                yield self.log_pane
                yield self.chat
        yield Static(id="keys")
        yield line_input(placeholder="words to keep, !word to leave out; Enter keeps, Esc clears", id="filter")
        yield Static(id="small")

    def on_mount(self) -> None:
        """Start watching."""
        self.base.set_class(True, "mode-dashboard")
        self._fit(self.size)
        self.domains.focus()
        self.refresh_panes()
        self.run_worker(
            lambda: watch_store(self.backend, self, self._stop, self._look), thread=True, exit_on_error=False
        )
        if self._with_machine:
            self.run_worker(lambda: watch_machine(self.backend, self, self._stop), thread=True, exit_on_error=False)
        if self.on_terminal:
            terminal.leave_on_signals(self.leave)
        self.set_interval(1.0, self._tick)

    def on_unmount(self) -> None:
        """End what is the console's own, also after a fault: a thread that goes on would keep the process."""
        self._stop.set()
        self._look.set()
        self.log_pane.stop()
        self.chat.close()

    def on_resize(self, event: events.Resize) -> None:
        """Arrange the panes for the size."""
        self._fit(event.size)

    def _fit(self, size: Size) -> None:
        width, height = size
        least = terminal.SMALLEST
        self.base.set_class(width < least[0] or height < least[1], "small")
        self.base.set_class(width < WIDE[0] or height < WIDE[1], "compact")
        self.base.set_class(width < NARROW, "narrow")
        self._fit_lists()
        self._put("small", f"This terminal is {width}x{height}.\nThe console needs {least[0]}x{least[1]}.\nJobs go on.")
        self._lines()

    def _fit_lists(self) -> None:
        """In the compact dashboard the lists take what their rows need, within bounds; the texts have the rest."""
        compact = self.base.has_class("compact") and self.mode == "dashboard"
        rows = max(self.phases.line_count(), self.domains.line_count()) + 2
        height = max(5, min(rows, self.size.height * 5 // 12)) if compact else None
        if height != self._lists_height:
            self._lists_height = height
            self.base.query_one("#lists").styles.height = height

    def leave(self, status: int) -> None:
        """Leave with an exit status: end what is the console's own; jobs go on."""
        self._stop.set()
        self._look.set()
        if self.on_terminal:
            terminal.leave_at_last(status, self.chat.close)
        self.chat.close()
        self.exit(status)

    def _tick(self) -> None:
        """Once a second: ages move, and a terminal may be gone."""
        if self.on_terminal and terminal.is_gone(sys.__stdin__.fileno() if sys.__stdin__ else 0):
            self.leave(128 + 1)
            return
        if self.snapshot is not None:
            self._revive(self.snapshot)
            if self.mode == "jobs":
                self.jobs.show_snapshot(self.snapshot, time.time())

    # What threads tell.

    def on_snapshot_arrived(self, message: SnapshotArrived) -> None:
        """Show the store as it is now."""
        self._tell_of_ends(self.snapshot, message.snapshot)
        self.snapshot = message.snapshot
        self.trouble = ""
        self.refresh_panes()
        self._revive(message.snapshot)

    def _tell_of_ends(self, before: Snapshot | None, now: Snapshot) -> None:
        """Bell and notice for jobs that ran a while and are over since the last look; one for all of them."""
        ended = ended_meanwhile(before, now)
        if not ended:
            return
        words = [f"{present.one_line(job.title)} {job.state}" for job in ended]
        line = words[0] if len(words) == 1 else f"{len(words)} jobs are over, the last: {words[0]}"
        self.tell(line, failed=any(job.state in ("failed", "interrupted") for job in ended))
        if self._driver is not None and self.on_terminal:
            self._driver.write(terminal.notice_sequence(f"TARA: {line}", os.environ))

    def _revive(self, snapshot: Snapshot) -> None:
        """Where jobs should run and their runner is gone, start it, once: what is shown of them must be true."""
        if snapshot.runner_pid is not None or snapshot.runner_stopped or not job_counts(snapshot):
            self._revived, self._off_since = False, None
            return
        now = time.monotonic()
        self._off_since = self._off_since or now
        orphans = any(job.state in ("starting", "running", "stopping") for job in snapshot.jobs)
        # With jobs that only wait it may be coming up this moment.
        if not self._revived and (orphans or now - self._off_since > STARTING_S):
            self._revived = True
            self.actions.revive_runner()

    def on_store_failed(self, message: StoreFailed) -> None:
        """Say that what is shown is not current."""
        self.trouble = present.one_line(message.line)
        self._lines()

    def on_meters_sampled(self, message: MetersSampled) -> None:
        """Show the machine's load."""
        self.meters = message.meters
        self._lines()

    def on_action_ended(self, message: ActionEnded) -> None:
        """Tell how a wish ended, in its form if that is still open, and show what it changed."""
        self._look.set()
        line = present.one_line(message.line)
        if not line:
            return
        form = self.screen if isinstance(self.screen, FormDialog) else None
        if form is not None and form.serial == message.dialog_id:
            if message.failed:
                form.say(line)
                return
            self.pop_screen()
        self.tell(line, failed=message.failed)

    def on_chat_pane_ended(self) -> None:
        """The chat is free again."""
        self.refresh_panes()

    # What is selected.

    @on(RowList.Moved)
    def _cursor_moved(self, message: RowList.Moved) -> None:
        if message.rows in (self.phases, self.domains, self.jobs):
            self.refresh_panes()

    def on_descendant_focus(self) -> None:
        """The log follows the list one was in last."""
        name = self.pane_name
        if name in ("phases", "domains", "jobs") and name != self.looked_at:
            self.looked_at = name
            self.refresh_panes()
        else:
            self._lines()

    @property
    def pane_name(self) -> str:
        """The pane that has the focus, else the one that stands for the mode."""
        for node in self.base.focused.ancestors_with_self if self.base.focused is not None else ():
            if node.id in PANES:
                return str(node.id)
        return {"jobs": "jobs", "logs": "log", "chat": "chat"}.get(self.mode, "domains")

    @property
    def pane_help(self) -> str:
        """What the pane with the focus shows."""
        panes = (self.phases, self.domains, self.jobs, self.log_pane, self.chat)
        return panes[PANES.index(self.pane_name)].HELP

    def relative(self, path: str) -> str:
        """A path as a person reads it: relative to the workspace where it lies inside."""
        return Workspace(self.backend.root).relative(Path(path))

    def jobs_after(self, job_id: int) -> list[JobView]:
        """The active jobs that wait for a job."""
        jobs = self.snapshot.jobs if self.snapshot else ()
        return [job for job in jobs if job_id in job.depends_on and job.active]

    def refresh_panes(self) -> None:
        """Show the snapshot and what is selected in every pane; what did not change is not repainted."""
        snapshot = self.snapshot
        if snapshot is not None:
            self.phases.show_snapshot(snapshot)
            self.phases.select(self.whereto.phase(snapshot))
            self.jobs.show_snapshot(snapshot, time.time())
        phase = next((one for one in snapshot.phases if one.number == self.phases.key), None) if snapshot else None
        self.domains.show_phase(phase)
        self.domains.select(self.whereto.domain(phase))
        domain = next((one for one in phase.domains if one.name == self.domains.key), None) if phase else None
        job: JobView | None = None
        if snapshot is not None:
            if self.looked_at == "jobs":
                job = next((one for one in snapshot.jobs if one.id == self.jobs.key), None)
            elif self.looked_at == "domains" and domain is not None:
                job = cause(snapshot, domain.job) if domain.job is not None else None
            if job is None and phase is not None and self.looked_at != "jobs":
                job = phase_job(snapshot, phase.number)
        choices = bundles(phase)
        bundle = self.chat_artifact or (choices[self.chat_choice % len(choices)] if choices else None)
        self.selection = Selection(self.mode, phase, domain, job, bundle, self.chat.generating)
        self.log_pane.watch_job(self.backend.root, job)
        self._fit_lists()
        hint = "" if phase is None else f"nothing to talk to in phase {phase.number} yet: b builds it"
        forced = self.chat_forced and self.chat_artifact is None
        self.chat.target(bundle, domain.name if domain is not None and forced else None, hint)
        self._lines()

    # Modes, filter, lines.

    def set_mode(self, mode: str) -> None:
        """Show the panes of a mode."""
        for one in MODES:
            self.base.set_class(one == mode, f"mode-{one}")
        self.mode = mode
        if mode == "jobs" and self.selection.job is not None and self.looked_at != "jobs":
            self.jobs.select(self.selection.job.id)
        first = FIRST_FOCUS[mode]
        if first == "question" and self.selection.bundle is None:
            first = "transcript"
        self.base.query_one(f"#{first}").focus()
        self.refresh_panes()

    def open_filter(self) -> None:
        """Type words that narrow the pane with the focus."""
        focused = self.base.focused
        if not isinstance(focused, RowList | LogView):
            self.tell("Filter: go to a list or the log first (Tab)", failed=True)
            return
        self._filtered = focused
        self.base.set_class(True, "filtering")
        line = self.base.query_one("#filter", Input)
        line.value = focused.filter
        line.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if self._filtered is not None:
            self._filtered.set_filter(event.value)
            self.refresh_panes()

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        filtered, self._filtered = self._filtered, None
        self.base.set_class(False, "filtering")
        if filtered is not None:
            filtered.focus()

    def key_escape(self) -> None:
        """Show all lines of the pane again."""
        target = self._filtered or self.base.focused
        if self._filtered is not None:
            self._close_filter()
        if isinstance(target, RowList | LogView) and target.filter:
            target.set_filter("")
            self.refresh_panes()

    def _put(self, id: str, text: str) -> None:
        """Set a line of text, if it differs: an equal one would be repainted too."""
        content = Content(text)
        if self._shown.get(id) != content:
            self._shown[id] = content
            self.base.query_one(f"#{id}", Static).update(content)

    def _lines(self) -> None:
        """The lines of state and of keys."""
        width = self.size.width
        self._put("status", status_line(self.backend.root, self.snapshot, self.trouble, self.meters, width))
        self._put("keys", keys_line(self.snapshot, self.selection, width))

    def action_command(self, command_id: str) -> None:
        """Do a command of the registry."""
        self.actions.run(command_id)

    def tell(self, line: str, *, failed: bool = False) -> None:
        """One line to the person."""
        self.notify(
            present.one_line(line),
            severity="error" if failed else "information",
            timeout=8 if failed else 4,
            markup=False,
        )

    def copy_pane(self) -> None:
        """Put what the pane with the focus shows into the clipboard."""
        focused = self.base.focused
        if isinstance(focused, RowList) and focused.shown:
            text = "\t".join(cell.text for cell in focused.shown[focused.cursor].cells)
        elif isinstance(focused, LogView):
            rows = [*focused.shown, *([focused.partial] if focused.partial else [])]
            text = "\n".join(rows[focused.top : focused.top + focused.page])
        else:
            text = "\n".join(present.one_line(line) for line in self.chat.answer.split("\n"))
        if not text:
            self.tell("Copy: there is nothing to copy here", failed=True)
            return
        sequence = terminal.clipboard_sequence(text, os.environ)
        if sequence is None:
            self.tell("Copy: too long for a terminal's clipboard", failed=True)
            return
        if self._driver is not None:
            self._driver.write(sequence)
        self.tell(f"copied {len(text)} characters")


def log_to_file(folder: Path) -> None:
    """Send the console's log to a file: the screen is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / "console.log", maxBytes=1 << 20, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def run_console(workspace: Workspace, backend: Backend | None = None) -> int:
    """Show the console until the person leaves. Returns the exit status."""
    if reason := terminal.refusal(os.environ, terminal.streams_are_terminals()):
        print(reason, file=sys.stderr)
        return int(ExitCode.ENVIRONMENT)
    log_to_file(workspace.runs)
    from tara_tui.store_backend import StoreBackend

    app = ConsoleApp(backend or StoreBackend(workspace), on_terminal=True)
    try:
        status = app.run()
    finally:
        app.chat.close()
    if status is None:
        return int(ExitCode.INTERNAL) if app.return_code else int(ExitCode.OK)
    if status == 0 and app.snapshot is not None and (counts := job_counts(app.snapshot)):
        print(f"jobs go on: {counts}; `tara` shows them again")
    return status
