"""What each command does: it asks where it must, hands the wish to the backend in a thread, and tells how it ended."""

import logging

from core.errors import TaraError
from tara_tui import present
from tara_tui.asking import unexpected
from tara_tui.backend import Service
from tara_tui.build_form import fields_of, technique_of
from tara_tui.commands import COMMANDS, help_lines
from tara_tui.details import describe
from tara_tui.dialogs import (
    FormField,
    PaletteDialog,
    TextDialog,
    palette_row,
)
from tara_tui.selection import active_release, earlier_release
from tara_tui.talking import Talking
from tara_tui.widgets.transcript import Entry

log = logging.getLogger("tara.console")


class Actions(Talking):
    """One method a command, named by its id. They run in the app's thread; only wishes go to others."""

    def run(self, command_id: str) -> None:
        """Do a command, or say why not."""
        command = next(one for one in COMMANDS if one.id == command_id)
        reason = command.enabled(self.app.snapshot, self.app.selection)
        if reason:
            self.app.tell(f"{command.title}: {reason}", failed=True)
            return
        getattr(self, command_id)()

    # Wishes.

    def build(self) -> None:
        """Queue what is missing of the phase."""
        phase = self.app.selection.phase
        assert phase is not None
        number, build = phase.number, self.app.backend.build_phase
        self.training(
            f"Build phase {number}?",
            lambda choice: build(number, choice),
            lambda choice, reason: build(number, choice, reason),
        )

    def build_as(self) -> None:
        """Ask how the phase is to be built and build it so."""
        phase = self.app.selection.phase
        assert phase is not None
        number = phase.number

        def build(values: dict[str, str], reason: str = "") -> str:
            return self.app.backend.build_as(number, values, reason)

        self.form(f"Build phase {number} as", fields_of(phase), [], build, build)

    def train(self) -> None:
        """Queue the domain's training."""
        domain = self.app.selection.domain
        assert domain is not None
        self.training(f"Train {domain.name}?", lambda choice: self.app.backend.train_domain(domain.name, choice))

    def cancel(self) -> None:
        """Cancel the job after a question."""
        job = self.app.selection.job
        assert job is not None
        lines = [f"job {job.id}  {present.one_line(job.title)}", f"{job.state} {present.percent(job)}".strip()]
        waiting = [one.id for one in self.app.jobs_after(job.id)]
        if waiting:
            lines.append(f"jobs that wait for it will be blocked: {', '.join(map(str, waiting))}")
        self.confirm(f"Cancel job {job.id}?", lines, "cancel it", lambda: self.app.backend.cancel_job(job.id))

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
        self.confirm(f"Start job {job.id} anyway?", lines, "start it", lambda: self.app.backend.let_in_job(job.id))

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
        if phase.quality_threshold is not None:
            notes.append(f"a domain below the quality threshold {phase.quality_threshold:g} is asked about first")

        def deploy(values: dict[str, str], reason: str = "") -> str:
            return self.app.backend.deploy_phase(phase.number, values["target"].strip(), reason)

        fields = [FormField("target", "target folder", target)]
        self.form(f"Deploy phase {phase.number} as v{version}?", fields, notes, deploy, deploy)

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

        self.confirm(title, lines, verb, roll_back)

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
            FormField("quantization", "quantization", "", "as configured; Q2_K Q4_K_M Q5_K_M Q8_0 as-is"),
            FormField("compression", "compression", "", "standard; sparse, hybrid, distilled; then MB for a size"),
        ]

        def make(values: dict[str, str]) -> str:
            if not values["number"].strip().isdigit():
                raise TaraError(f"a phase's number is a whole number, not {values['number']!r}")
            names = values["domains"].replace(",", " ").split()
            number = int(values["number"])
            line = self.app.backend.create_phase(
                number, names, values["quantization"].strip(), *technique_of(values["compression"])
            )
            self.app.whereto.made(number)
            return line

        self.form("Create a phase", fields, [], make)
        self.note_domains()

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

        self.form(f"Add a domain to phase {phase.number}", fields, [], add)
        self.note_domains()

    def introduce_domain(self) -> None:
        """Ask what a domain is and add it to the catalogue."""
        fields = [
            FormField("name", "name: small letters, digits, underscores"),
            FormField("examples", "file of what people say to it", "", "a message a line, or training data"),
            FormField("description", "description", "", "from the examples"),
            FormField("keywords", "keywords, with commas between", "", "from the examples"),
        ]

        def add(values: dict[str, str]) -> str:
            words = [word.strip() for word in values["keywords"].split(",") if word.strip()]
            given = {name: value.strip() for name, value in values.items()}
            return self.app.backend.introduce_domain(given["name"], given["examples"], given["description"], words)

        self.form("New domain in the catalogue", fields, [], add)

    def remove_domain(self) -> None:
        """Take the domain out of the phase after a question."""
        phase, domain = self.app.selection.phase, self.app.selection.domain
        assert phase is not None
        assert domain is not None
        name = present.one_line(domain.name)
        lines = [f"{name}, {domain.status}", "its adapter and measurements stay; a adds it again, here or elsewhere"]
        self.confirm(
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
            self.confirm(title, lines, verb, work)

        self.wish(read)

    # Looking.

    def details(self) -> None:
        """Show all that is known of the selected thing."""
        heading, entries = describe(self.app.pane_name, self.app.selection, self.app.chat.told)
        phase = self.app.selection.phase
        if self.app.pane_name == "phases" and phase is not None:
            number = phase.number

            def outcome() -> list[str]:
                try:
                    return self.app.backend.phase_outcome(number)
                except TaraError as error:  # what the screen holds is shown all the same
                    return [f" {present.one_line(error.one_line())}"]
                except Exception as error:
                    log.exception("what came of phase %d cannot be told", number)
                    return [f" {unexpected(error)}"]

            self.read(heading, outcome, before=[*entries, Entry("")])
        else:
            self.app.push_screen(TextDialog(heading, entries))

    def plan(self) -> None:
        """Show what building the phase, or training the domain, will take on this machine."""
        phase, domain = self.app.selection.phase, self.app.selection.domain
        assert phase is not None
        if self.app.pane_name == "domains" and domain is not None:
            name = domain.name
            self.read(f"Plan of domain {present.one_line(name)}", lambda: self.app.backend.plan_domain(name))
        else:
            self.read(f"Plan of phase {phase.number}", lambda: self.app.backend.plan_phase(phase.number))

    def compare(self) -> None:
        """Show the phase's models, and others that are named, side by side."""
        phase = self.app.selection.phase
        assert phase is not None
        number = phase.number
        fields = [FormField("others", "beside them", "", "nothing else; or numbers, file names, phase:2")]
        self.form_to_read(
            f"Models of phase {number}", fields, lambda values: self.app.backend.compare_phase(number, values["others"])
        )

    def measure(self) -> None:
        """Queue the measurement of the phase's models."""
        phase = self.app.selection.phase
        assert phase is not None
        self.wish(lambda: self.app.backend.measure_phase(phase.number))

    def export(self) -> None:
        """Ask for a type and queue the domain as one file."""
        domain = self.app.selection.domain
        assert domain is not None
        name = domain.name
        fields = [FormField("type", "type: F16, Q2_K, Q4_K_M, Q5_K_M or Q8_0", "F16")]
        notes = ["its adapter is merged into its base; the file is loaded and tried before it counts as done"]
        self.form(
            f"Export {present.one_line(name)} as one file", fields, notes,
            lambda values: self.app.backend.export_domain(name, values["type"].strip()),
        )  # fmt: skip

    def recommend(self) -> None:
        """Ask what a file may take, and show the ways to build the phase in order."""
        phase = self.app.selection.phase
        assert phase is not None
        target = "" if phase.target_size_mb is None else f"{phase.target_size_mb:g}"
        fields = [
            FormField("target", "most megabytes of each base's file", target, "any"),
            FormField("quality", "least quality", "", "any; 0.9 same top token as F16, or kl:0.05"),
            FormField("memory", "most megabytes of memory while one chats", "", "what is free now"),
            FormField("speed", "speed counts", "yes" if phase.speed_priority else "no", "yes or no"),
        ]
        number = phase.number
        title = f"Ways to build phase {number}"

        def ask(values: dict[str, str]) -> list[str]:
            given = {name: value.strip() for name, value in values.items()}
            return self.app.backend.recommend_phase(number, **given)

        self.form_to_read(title, fields, ask)

    def checkpoints(self) -> None:
        """Show the checkpoints of the domain's trainings."""
        domain = self.app.selection.domain
        assert domain is not None
        none = "none: no training of it is unfinished"
        self.read(f"Checkpoints of {domain.name}", lambda: self.app.backend.checkpoints(domain.name), none)

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
