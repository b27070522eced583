"""What the chat's commands do: whom one talks to, how, what is remembered, and the canned prompts."""

from textual.widgets import Input

from core.errors import InvalidInput, Refused
from tara_tui import present
from tara_tui.asking import Asking
from tara_tui.backend import Bundle
from tara_tui.dialogs import FormField, PaletteDialog
from tara_tui.widgets.row_list import Cell, Column, Row

PREFERENCES = ("balanced", "speed", "quality")
ARTIFACT_COLUMNS = (Column("what", 60, grow=True), Column("path", 30, grow=True))


class Talking(Asking):
    """The commands about the chat."""

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
        if self.app.chat_artifact is None:
            self.app.chat_choice += 1
        self.app.chat_artifact = None
        self.app.refresh_panes()

    def talk(self) -> None:
        """Talk to what is selected: a phase's release, routed; a domain; what a job made. Its engine is started."""
        selection, pane = self.app.selection, self.app.pane_name
        self.app.chat_artifact = None
        if pane == "jobs" and selection.job is not None:
            self._open(None, selection.job.id)
            return
        self.app.chat_forced = pane == "domains" and selection.domain is not None
        self.app.refresh_panes()
        if self.app.selection.bundle is not None:
            self._begin()
        elif selection.domain is not None:
            self._open(selection.domain.name, None)
        else:
            self.app.tell("Talk to it: nothing is built yet", failed=True)

    def _open(self, domain: str | None, job_id: int | None) -> None:
        def look() -> str:
            found = self.app.backend.talk_of(domain, job_id)
            self.app.call_later(self._talk_to, found)
            return ""

        self.wish(look)

    def _talk_to(self, bundle: Bundle) -> None:
        self.app.chat_artifact = bundle
        self.app.chat_forced = False
        self.app.refresh_panes()
        self._begin()

    def _begin(self) -> None:
        """Go to the question line and have the engine started meanwhile."""
        self.ask()
        self.app.chat.warm()

    def talk_artifact(self) -> None:
        """Choose a model, an adapter or a bundle, and talk to it."""

        def read() -> str:
            found = self.app.backend.artifacts()
            if not found:
                raise Refused("there is no artifact to talk to yet", "b builds the phase")
            self.app.call_later(choose, found)
            return ""

        def choose(found: list[Bundle]) -> None:
            rows = [
                Row(at, (Cell(present.one_line(one.label)), Cell(present.one_line(one.path), "dim")))
                for at, one in enumerate(found)
            ]
            dialog = PaletteDialog(rows, "Talk to an artifact", ARTIFACT_COLUMNS, "words of its name")
            self.app.push_screen(dialog, lambda key: self._talk_to(found[int(key)]) if key is not None else None)

        self.wish(read)

    def prefer(self) -> None:
        """The next of balanced, speed and quality."""
        chat = self.app.chat
        at = PREFERENCES.index(chat.preference) if chat.preference in PREFERENCES else 0
        chat.prefer(PREFERENCES[(at + 1) % len(PREFERENCES)])
        self.wish(chat.tell_preference)

    def smoke(self) -> None:
        """Ask the phase's bundle, or from the domains pane the domain, the canned prompts and show how it did."""
        phase, domain = self.app.selection.phase, self.app.selection.domain
        assert phase is not None
        name = domain.name if self.app.pane_name == "domains" and domain is not None else None
        of = f"domain {present.one_line(name)}" if name else f"phase {phase.number}"
        self.app.tell(f"smoke test of {of} goes on; its report opens when it is done")
        self.read(f"Smoke test of {of}", lambda: self.app.backend.smoke_phase(phase.number, name))

    def route_text(self) -> None:
        """Ask for a message and show where it would go."""
        phase = self.app.selection.phase
        number = phase.number if phase is not None else None
        among = f"among phase {number}'s domains" if number is not None else "among all domains of the catalogue"

        def look(values: dict[str, str]) -> list[str]:
            if not values["text"].strip():
                raise InvalidInput("the message is empty")
            return self.app.backend.route_text(number, values["text"])

        self.form_to_read(f"Where a message would go {among}", [FormField("text", "message")], look)

    def history(self) -> None:
        """Show what is remembered of this person's chats."""
        self.read("Your chat history (X erases it)", self.app.backend.history)

    def erase_history(self) -> None:
        """Delete it after a question."""

        def erase() -> str:
            line = self.app.backend.erase_history()
            self.app.chat.forget_person()
            return line

        lines = ["your messages, the answers to them and what was felt in them are deleted from state.db"]
        self.confirm("Erase your chat history?", lines, "erase it", erase)
