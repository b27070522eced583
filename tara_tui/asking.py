"""How an action asks and how it is carried out: questions, forms, texts to read, and wishes in a thread."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.errors import BelowThreshold, SettingsChanged, TaraError
from tara_tui import present
from tara_tui.dialogs import ConfirmDialog, FormDialog, FormField, TextDialog, UnfinishedDialog
from tara_tui.messages import ActionEnded
from tara_tui.widgets.transcript import Entry

if TYPE_CHECKING:
    from core.phases.unfinished import Choice
    from tara_tui.app import ConsoleApp

log = logging.getLogger("tara.console")


def unexpected(error: Exception) -> str:
    """An error that nobody expected, in a line; its traceback is in the log."""
    return present.one_line(f"{type(error).__name__}: {error} (details in runs/console.log)")


class Asking:
    """Carries out wishes in a thread and tells how they ended; shows questions, forms and texts."""

    def __init__(self, app: "ConsoleApp") -> None:
        self.app = app

    def wish(
        self,
        work: Callable[[], str],
        dialog: int | None = None,
        changed: Callable[[SettingsChanged], None] | None = None,
        below: Callable[[BelowThreshold], None] | None = None,
    ) -> None:
        """Carry out a wish in a thread and post how it ended; `changed` asks where a choice is to be made, `below`
        where domains are below their phase's quality threshold."""

        def carry_out() -> None:
            try:
                ended = ActionEnded(work(), False, dialog)
            except SettingsChanged as error:
                if changed is not None:
                    self.app.call_later(changed, error)
                    return
                ended = ActionEnded(present.one_line(error.one_line()), True, dialog)
            except BelowThreshold as error:
                if below is not None:
                    self.app.call_later(below, error)
                    return
                ended = ActionEnded(present.one_line(error.one_line()), True, dialog)
            except TaraError as error:
                log.info("refused: %s", error.one_line())
                ended = ActionEnded(present.one_line(error.one_line()), True, dialog)
            except Exception as error:
                log.exception("an action failed")
                ended = ActionEnded(unexpected(error), True, dialog)
            self.app.post_message(ended)

        self.app.run_worker(carry_out, thread=True, group="wishes", exit_on_error=False)

    def training(
        self,
        title: str,
        work: Callable[["Choice | None"], str],
        override: Callable[["Choice | None", str], str] | None = None,
    ) -> None:
        """Carry out a wish that may begin a training; where an unfinished one has other settings, ask first. Where it
        may be below a quality threshold, `override` is the wish with a reason to go on."""

        def begin(choice: "Choice | None", ask: Callable[[SettingsChanged], None] | None = None) -> None:
            below = None if override is None else self.override(title, lambda reason: override(choice, reason))
            self.wish(lambda: work(choice), changed=ask, below=below)

        def answered(answer: "Choice | None") -> None:
            if answer is not None:
                begin(answer)

        def ask(error: SettingsChanged) -> None:
            lines = [present.one_line(line) for line in error.lines]
            self.app.push_screen(UnfinishedDialog(title, lines, can_leave=error.can_leave), answered)

        begin(None, ask)

    def override(self, title: str, work: Callable[[str], str]) -> Callable[[BelowThreshold], None]:
        """What asks for a reason to go on below a quality threshold, in place of the form on top, and then does so."""

        def give(dialog: int, values: dict[str, str]) -> None:
            reason = values["reason"].strip()
            if reason:
                self.wish(lambda: work(reason), dialog)
            elif isinstance(self.app.screen, FormDialog):
                self.app.screen.say("give a reason, or Esc leaves it")

        def ask(error: BelowThreshold) -> None:
            if isinstance(self.app.screen, FormDialog):
                self.app.pop_screen()
            notes = [present.one_line(error.message.partition(":")[0]), *map(present.one_line, error.lines)]
            field = FormField("reason", "reason to go on all the same (recorded)")
            self.app.push_screen(FormDialog(title, [field], notes, give))

        return ask

    def read(
        self, title: str, work: Callable[[], list[str]], none: str = "nothing", before: Sequence[Entry] = ()
    ) -> None:
        """Show lines once they were made, those that are not indented as heads, below what is there `before`."""

        def read() -> str:
            self.app.call_later(self._show, title, work(), none, before)
            return ""

        self.wish(read)

    def _show(self, title: str, lines: list[str], none: str = "nothing", before: Sequence[Entry] = ()) -> None:
        entries = [Entry(line, "" if line[:1] == " " else "head", indent=4) for line in lines]
        self.app.push_screen(TextDialog(title, [*before, *entries] or [Entry(none)]))

    def confirm(self, title: str, lines: list[str], verb: str, work: Callable[[], str]) -> None:
        """Carry out a wish once it was confirmed by its verb."""

        def answered(answer: bool | None) -> None:
            if answer:
                self.wish(work)

        self.app.push_screen(ConfirmDialog(title, lines, verb), answered)

    def form(
        self,
        title: str,
        fields: list[FormField],
        notes: list[str],
        work: Callable[[dict[str, str]], str],
        override: Callable[[dict[str, str], str], str] | None = None,
    ) -> None:
        """Show a form that stays with the reason until its wish is carried out. `override` as for `training`."""

        def submit(dialog: int, values: dict[str, str]) -> None:
            below = None if override is None else self.override(title, lambda reason: override(values, reason))
            self.wish(lambda: work(values), dialog, below=below)

        self.app.push_screen(FormDialog(title, fields, notes, submit))

    def form_to_read(self, title: str, fields: list[FormField], work: Callable[[dict[str, str]], list[str]]) -> None:
        """Show a form, and in its place the lines that are made from it, those that are not indented as heads."""

        def read(values: dict[str, str]) -> str:
            self.app.call_later(show, work(values))
            return ""

        def show(lines: list[str]) -> None:
            if isinstance(self.app.screen, FormDialog):
                self.app.pop_screen()
            self._show(title, lines)

        self.form(title, fields, [], read)

    def note_domains(self) -> None:
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
