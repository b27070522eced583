"""What each command does: it asks where it must, hands the wish to the backend in a thread, and tells how it ended."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.widgets import Input

from core.errors import SettingsChanged, TaraError
from tara_tui import present
from tara_tui.backend import Service
from tara_tui.commands import COMMANDS, help_lines
from tara_tui.details import describe
from tara_tui.dialogs import (
    ConfirmDialog,
    FormDialog,
    FormField,
    PaletteDialog,
    TextDialog,
    UnfinishedDialog,
    palette_row,
)
from tara_tui.messages import ActionEnded
from tara_tui.selection import active_release, earlier_release
from tara_tui.widgets.transcript import Entry

if TYPE_CHECKING:
    from core.phases.unfinished import Choice
    from tara_tui.app import ConsoleApp

log = logging.getLogger("tara.console")


class Actions:
    """One method a command, named by its id. They run in the app's thread; only wishes go to others."""

    def __init__(self, app: "ConsoleApp") -> None:
        self.app = app

    def run(self, command_id: str) -> None:
        """Do a command, or say why not."""
        command = next(one for one in COMMANDS if one.id == command_id)
        reason = command.enabled(self.app.snapshot, self.app.selection)
        if reason:
            self.app.tell(f"{command.title}: {reason}", failed=True)
            return
        getattr(self, command_id)()

    def wish(
        self,
        work: Callable[[], str],
        dialog: int | None = None,
        changed: Callable[[SettingsChanged], None] | None = None,
    ) -> None:
        """Carry out a wish in a thread and post how it ended; `changed` asks where a choice is to be made."""

        def carry_out() -> None:
            try:
                ended = ActionEnded(work(), False, dialog)
            except SettingsChanged as error:
                if changed is not None:
                    self.app.call_later(changed, error)
                    return
                ended = ActionEnded(present.one_line(error.one_line()), True, dialog)
            except TaraError as error:
                log.info("refused: %s", error.one_line())
                ended = ActionEnded(present.one_line(error.one_line()), True, dialog)
            except Exception as error:
                log.exception("an action failed")
                line = f"{type(error).__name__}: {error} (details in runs/console.log)"
                ended = ActionEnded(present.one_line(line), True, dialog)
            self.app.post_message(ended)

        self.app.run_worker(carry_out, thread=True, group="wishes", exit_on_error=False)

    # Wishes.

    def build(self) -> None:
        """Queue what is missing of the phase."""
        phase = self.app.selection.phase
        assert phase is not None
        self._training(
            f"Build phase {phase.number}?", lambda choice: self.app.backend.build_phase(phase.number, choice)
        )

    def build_merged(self) -> None:
        """Ask how the phase's domains are merged and build it so."""
        phase = self.app.selection.phase
        assert phase is not None
        margin = "" if phase.merge_margin is None else f"{phase.merge_margin:g}"
        fields = [
            FormField("merge", "merge: none, exact or unified", phase.merge),
            FormField("method", "method of unified", phase.merge_method or "", "ties, cat, dare or linear"),
            FormField("margin", "margin of unified, a share", margin, "as configured"),
        ]
        number = phase.number

        def build(values: dict[str, str]) -> str:
            return self.app.backend.build_merged(number, **{name: value.strip() for name, value in values.items()})

        self._form(f"Build phase {number}, merged", fields, [], build)

    def train(self) -> None:
        """Queue the domain's training."""
        domain = self.app.selection.domain
        assert domain is not None
        self._training(f"Train {domain.name}?", lambda choice: self.app.backend.train_domain(domain.name, choice))

    def cancel(self) -> None:
        """Cancel the job after a question."""
        job = self.app.selection.job
        assert job is not None
        lines = [f"job {job.id}  {present.one_line(job.title)}", f"{job.state} {present.percent(job)}".strip()]
        waiting = [one.id for one in self.app.jobs_after(job.id)]
        if waiting:
            lines.append(f"jobs that wait for it will be blocked: {', '.join(map(str, waiting))}")
        self._confirm(f"Cancel job {job.id}?", lines, "cancel it", lambda: self.app.backend.cancel_job(job.id))

    def pause(self) -> None:
        """Pause the job, or let a paused one go on."""
        job = self.app.selection.job
        assert job is not None
        resume = job.state == "paused"
        self.wish(lambda: self.app.backend.resume_job(job.id) if resume else self.app.backend.pause_job(job.id))

    def let_in(self) -> None:
        """Start a job whatever it needs, after a question."""
        job = self.app.selection.job
        assert job is not None
        lines = [f"job {job.id}  {present.one_line(job.title)}", present.one_line(job.message)]
        lines.append("where memory runs out, the biggest job is ended and tried again, smaller")
        self._confirm(f"Start job {job.id} anyway?", lines, "start it", lambda: self.app.backend.let_in_job(job.id))

    def retry(self) -> None:
        """Queue the failed job again."""
        job = self.app.selection.job
        assert job is not None
        self.wish(lambda: self.app.backend.retry_job(job.id))

    def deploy(self) -> None:
        """Ask for the target and deploy."""
        phase = self.app.selection.phase
        assert phase is not None
        active = active_release(phase)
        target = present.one_line(self.app.relative(active.target)) if active else f"releases/phase-{phase.number}"
        there = [one.version for one in phase.releases if active is not None and one.target == active.target]
        version = max(there, default=0) + 1
        notes = [
            f"phase {phase.number} as v{version}, {present.size(phase.bundle_bytes)}",
            f"bundle {present.one_line(phase.bundle_path)}",
            f"it takes the place of v{active.version}; R goes back to it" if active else "nothing is deployed so far",
            "versions count by target; a relative one is inside the workspace",
        ]
        fields = [FormField("target", "target folder", target)]
        if phase.quality_threshold is not None:
            label = f"reason, only to deploy below the quality threshold {phase.quality_threshold:g} (recorded)"
            fields.append(FormField("reason", label))

        def deploy(values: dict[str, str]) -> str:
            reason = values.get("reason", "").strip()
            return self.app.backend.deploy_phase(phase.number, values["target"].strip(), reason)

        self._form(f"Deploy phase {phase.number} as v{version}?", fields, notes, deploy)

    def roll_back(self) -> None:
        """Go back to the release before, after a question."""
        phase = self.app.selection.phase
        assert phase is not None
        earlier = earlier_release(phase)
        assert earlier is not None
        lines = [
            f"phase {phase.number}: from {present.release(phase)} back to v{earlier.version} of "
            f"{present.moment(earlier.created_at)}",
            f"target {present.one_line(self.app.relative(earlier.target))}",
        ]
        verb = f"make v{earlier.version} serve again"
        title = f"Roll back phase {phase.number}?"

        def roll_back() -> str:
            return self.app.backend.rollback_phase(phase.number, earlier.version, earlier.target)

        self._confirm(title, lines, verb, roll_back)

    def advance(self) -> None:
        """Make the next phase the current one, and go there."""

        def work() -> str:
            line = self.app.backend.advance_phase()
            self.app.whereto.follows_current = True
            return line

        self.wish(work)

    def create_phase(self) -> None:
        """Ask for what a phase needs and make it."""
        phases = self.app.snapshot.phases if self.app.snapshot else ()
        number = max((phase.number for phase in phases), default=0) + 1
        fields = [
            FormField("number", "number", str(number)),
            FormField("domains", "domains, with commas or spaces between", choice=True),
            FormField("quantization", "quantization", "", "as configured; Q2_K Q4_K_M Q5_K_M Q8_0"),
            FormField("compression", "compression", "", "standard; or hybrid, or hybrid MB for a target size"),
        ]

        def make(values: dict[str, str]) -> str:
            if not values["number"].strip().isdigit():
                raise TaraError(f"a phase's number is a whole number, not {values['number']!r}")
            names = values["domains"].replace(",", " ").split()
            number = int(values["number"])
            line = self.app.backend.create_phase(
                number, names, values["quantization"].strip(), *_compression(values["compression"])
            )
            self.app.whereto.made(number)
            return line

        self._form("Create a phase", fields, [], make)
        self._note_domains()

    def add_domain(self) -> None:
        """Ask which domain to put into the phase."""
        phase = self.app.selection.phase
        assert phase is not None
        fields = [
            FormField("domain", "domain", choice=True),
            FormField("adapter", "adapter folder made elsewhere", "", "none: it is trained here"),
        ]

        def add(values: dict[str, str]) -> str:
            name = values["domain"].strip()
            line = self.app.backend.add_domain(phase.number, name, values["adapter"].strip())
            self.app.whereto.made(phase.number, name)
            return line

        self._form(f"Add a domain to phase {phase.number}", fields, [], add)
        self._note_domains()

    def remove_domain(self) -> None:
        """Take the domain out of the phase after a question."""
        phase, domain = self.app.selection.phase, self.app.selection.domain
        assert phase is not None
        assert domain is not None
        name = present.one_line(domain.name)
        lines = [f"{name}, {domain.status}", "its adapter and measurements stay; a adds it again, here or elsewhere"]
        self._confirm(
            f"Take {name} out of phase {phase.number}?",
            lines,
            "take it out",
            lambda: self.app.backend.remove_domain(phase.number, domain.name),
        )

    def revive_runner(self) -> None:
        """Start the runner that is gone."""
        self.wish(self.app.backend.revive_runner)

    def start_runner(self) -> None:
        """Start the runner."""
        self.wish(self.app.backend.start_runner)

    def service(self) -> None:
        """Show what survives a restart, and install the service or remove it after a question."""

        def read() -> str:
            found = self.app.backend.service()
            self.app.call_later(show, found)
            return ""

        def show(found: Service) -> None:
            lines = [present.one_line(line) for line in found.lines]
            if found.installed:
                title, verb, work = "Runner with the machine", "remove the service", self.app.backend.remove_service
            else:
                title, verb, work = "Runner with the machine", "install the service", self.app.backend.install_service
            self._confirm(title, lines, verb, work)

        self.wish(read)

    # Chat.

    def ask(self) -> None:
        """Go to the question line."""
        if self.app.mode not in ("dashboard", "chat"):
            self.app.set_mode("dashboard")
        self.app.base.query_one("#question", Input).focus()

    def stop_answer(self) -> None:
        """Stop the answer."""
        self.app.chat.stop_answer()

    def force_domain(self) -> None:
        """Let the router or the selected domain answer."""
        self.app.chat_forced = not self.app.chat_forced
        self.app.refresh_panes()

    def next_bundle(self) -> None:
        """Talk to the next of what the phase has."""
        self.app.chat_choice += 1
        self.app.refresh_panes()

    # Looking.

    def details(self) -> None:
        """Show all that is known of the selected thing."""
        heading, entries = describe(self.app.pane_name, self.app.selection, self.app.chat.route)
        self.app.push_screen(TextDialog(heading, entries))

    def plan(self) -> None:
        """Show what building the phase, or training the domain, will take on this machine."""
        phase, domain = self.app.selection.phase, self.app.selection.domain
        assert phase is not None
        if self.app.pane_name == "domains" and domain is not None:
            name = domain.name
            self._read(f"Plan of domain {present.one_line(name)}", lambda: self.app.backend.plan_domain(name))
        else:
            self._read(f"Plan of phase {phase.number}", lambda: self.app.backend.plan_phase(phase.number))

    def compare(self) -> None:
        """Show the phase's models side by side."""
        phase = self.app.selection.phase
        assert phase is not None
        self._read(f"Models of phase {phase.number}", lambda: self.app.backend.compare_phase(phase.number))

    def measure(self) -> None:
        """Queue the measurement of the phase's models."""
        phase = self.app.selection.phase
        assert phase is not None
        self.wish(lambda: self.app.backend.measure_phase(phase.number))

    def checkpoints(self) -> None:
        """Show the checkpoints of the domain's trainings."""
        domain = self.app.selection.domain
        assert domain is not None
        none = "none: no training of it is unfinished"
        self._read(f"Checkpoints of {domain.name}", lambda: self.app.backend.checkpoints(domain.name), none)

    def filter(self) -> None:
        """Type words that narrow the pane."""
        self.app.open_filter()

    def copy(self) -> None:
        """Put what the pane shows into the clipboard."""
        self.app.copy_pane()

    def dashboard(self) -> None:
        """Show all four panes."""
        self.app.set_mode("dashboard")

    def jobs(self) -> None:
        """Show all jobs."""
        self.app.set_mode("jobs")

    def logs(self) -> None:
        """Show the log alone."""
        self.app.set_mode("logs")

    def chat(self) -> None:
        """Show the chat alone."""
        self.app.set_mode("chat")

    def help(self) -> None:
        """Explain the focused pane and list all keys."""
        name = self.app.pane_name
        entries = [Entry(self.app.pane_help), Entry(""), Entry("Keys", "head")]
        entries += [Entry(line, indent=8) for line in help_lines()]
        entries.append(Entry("Tab     Next pane; shift+tab the one before.", indent=8))
        entries.append(
            Entry("j k     Move; g G first and last, space and PgUp a page, h l sideways in the log.", indent=8)
        )
        self.app.push_screen(TextDialog(f"Help: {name}", entries))

    def palette(self) -> None:
        """Choose any command by name."""
        rows = [
            palette_row(one.id, one.title, one.shown, one.help, one.enabled(self.app.snapshot, self.app.selection))
            for one in COMMANDS
            if one.id != "palette"
        ]
        self.app.push_screen(PaletteDialog(rows), self._chosen)

    def quit(self) -> None:
        """Leave; jobs go on."""
        self.app.leave(0)

    # Windows.

    def _chosen(self, command_id: str | None) -> None:
        if command_id is not None:
            self.run(command_id)

    def _training(self, title: str, work: Callable[["Choice | None"], str]) -> None:
        """Carry out a wish that may begin a training; where an unfinished one has other settings, ask first."""

        def answered(answer: "Choice | None") -> None:
            if answer is not None:
                self.wish(lambda: work(answer))

        def ask(error: SettingsChanged) -> None:
            lines = [present.one_line(line) for line in error.lines]
            self.app.push_screen(UnfinishedDialog(title, lines, can_leave=error.can_leave), answered)

        self.wish(lambda: work(None), changed=ask)

    def _read(self, title: str, work: Callable[[], list[str]], none: str = "nothing") -> None:
        """Show lines once they were made, those that are not indented as heads."""

        def read() -> str:
            self.app.call_later(show, work())
            return ""

        def show(lines: list[str]) -> None:
            entries = [Entry(line, "" if line[:1] == " " else "head", indent=4) for line in lines]
            self.app.push_screen(TextDialog(title, entries or [Entry(none)]))

        self.wish(read)

    def _confirm(self, title: str, lines: list[str], verb: str, work: Callable[[], str]) -> None:
        def answered(answer: bool | None) -> None:
            if answer:
                self.wish(work)

        self.app.push_screen(ConfirmDialog(title, lines, verb), answered)

    def _form(
        self, title: str, fields: list[FormField], notes: list[str], work: Callable[[dict[str, str]], str]
    ) -> None:
        def submit(dialog: int, values: dict[str, str]) -> None:
            self.wish(lambda: work(values), dialog)

        self.app.push_screen(FormDialog(title, fields, notes, submit))

    def _note_domains(self) -> None:
        """Show the configured domains in the form on top, once they were read."""

        form = self.app.screen
        assert isinstance(form, FormDialog)

        def read() -> None:
            try:
                names = [present.one_line(name) for name in self.app.backend.domain_names()]
                self.app.call_later(show, names, "")
            except TaraError as error:
                self.app.call_later(show, [], present.one_line(error.one_line()))
            except Exception as error:
                log.exception("reading the domains failed")
                self.app.call_later(show, [], f"the domains could not be read: {type(error).__name__}")

        def show(names: list[str], trouble: str) -> None:
            if not form.is_attached:
                return
            if names:
                form.show_choices(names)
            else:
                form.set_notes([trouble or "no domain is configured"])

        self.app.run_worker(read, thread=True, group="notes", exit_on_error=False)


def _compression(text: str) -> tuple[str, float | None]:
    """The technique and the target size in MB that a form's line names: "", "hybrid", "hybrid 100"."""
    technique, _, size = text.strip().partition(" ")
    if not size:
        return technique, None
    try:
        return technique, float(size.strip().removesuffix("MB"))
    except ValueError:
        raise TaraError(f"a target size is a number of megabytes, not {size.strip()!r}") from None
