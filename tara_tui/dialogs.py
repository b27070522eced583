"""The windows over the console: a question, a form, a text to read, the list of commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tara_tui.widgets.row_list import Cell, Column, Row, RowList
from tara_tui.widgets.transcript import Entry, Transcript

if TYPE_CHECKING:
    from core.phases.unfinished import Choice

serial = count(1)
MOST_CHOICES = 12
FORM_KEYS = "Enter does it, Tab moves, Esc leaves"


def line_input(value: str = "", placeholder: str = "", *, id: str | None = None) -> Input:
    """A line to type in, whose cursor does not blink: a blink repaints for ever."""
    field = Input(value=value, placeholder=placeholder, id=id, compact=True)
    field.cursor_blink = False
    return field


class Window(Vertical):
    """A framed box in the middle of the screen; its title is never read as markup."""

    def __init__(self, title: str) -> None:
        super().__init__(classes="window")
        self.border_title = Content(title)  # type: ignore[assignment]


class ConfirmDialog(ModalScreen[bool]):
    """A question before something that destroys or replaces. y does it; n, Esc and Enter do not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", show=False),
        Binding("n,escape,enter,q", "answer(False)", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[str], verb: str) -> None:
        super().__init__()
        self.heading = title
        self.text = "\n".join([*lines, "", f"y  {verb}     n, Esc  leave it"])

    def compose(self) -> ComposeResult:
        """A box with the facts and the keys."""
        with Window(self.heading):
            yield Static(Content(self.text))

    def action_answer(self, answer: bool) -> None:
        """Close with the answer."""
        self.dismiss(answer)


class UnfinishedDialog(ModalScreen["Choice | None"]):
    """An unfinished training has other settings: go on with the old ones, start afresh, or leave it. Enter leaves it.

    Where it is queued, running or paused starting afresh is not possible.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "answer('old')", show=False),
        Binding("f", "answer('fresh')", show=False),
        Binding("n,escape,enter,q", "answer(None)", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[str], *, can_leave: bool) -> None:
        super().__init__()
        self.heading = title
        self.can_leave = can_leave
        ways = ["o  go on with the old settings"]
        if can_leave:
            ways.append("f  start afresh at step 0; the old checkpoints stay (K shows them)")
        else:
            ways.append("   for the new settings cancel that job first (c)")
        self.text = "\n".join([*lines, "", *ways, "n, Esc  leave it"])

    def compose(self) -> ComposeResult:
        """A box with what differs and the ways to go."""
        with Window(self.heading):
            yield Static(Content(self.text))

    def action_answer(self, answer: "Choice | None") -> None:
        """Close with the answer; one that is not possible now keeps the window."""
        if answer != "fresh" or self.can_leave:
            self.dismiss(answer)


@dataclass(frozen=True)
class FormField:
    """A line of a form."""

    name: str
    label: str
    value: str = ""
    placeholder: str = ""
    choice: bool = False  # its words are among the form's choices


class FormDialog(ModalScreen[None]):
    """A few lines to fill in. It stays until what was asked is done, and shows why it was not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(
        self,
        title: str,
        fields: Sequence[FormField],
        notes: Sequence[str],
        submit: Callable[[int, dict[str, str]], None],
    ) -> None:
        super().__init__()
        self.serial = next(serial)
        self.heading = title
        self.fields = fields
        self.notes = notes
        self.submit = submit
        self.choices: Sequence[str] = ()

    def compose(self) -> ComposeResult:
        """Labels over lines to type in, then what there is to know."""
        with Window(self.heading):
            for field in self.fields:
                yield Static(Content(field.label), classes="label")
                yield line_input(field.value, field.placeholder, id=f"field-{field.name}")
            yield Static(Content(""), id="form-error")
            yield Static(Content("\n".join([*self.notes, FORM_KEYS])), id="form-notes")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.say("working ...")
        self.submit(self.serial, {one.name: self.query_one(f"#field-{one.name}", Input).value for one in self.fields})

    @on(Input.Changed)
    def _narrow_choices(self) -> None:
        if self.choices:
            self.show_choices(self.choices)

    def show_choices(self, choices: Sequence[str]) -> None:
        """Show what a field of words may hold: those that fit the word being typed, as many as there is room for."""
        self.choices = choices
        field = next((one for one in self.fields if one.choice), None)
        typed = self.query_one(f"#field-{field.name}", Input).value if field is not None else ""
        word = typed.replace(",", " ").rpartition(" ")[2].lower()
        fitting = [name for name in choices if word in name.lower()] or list(choices)
        said = ", ".join(fitting[:MOST_CHOICES])
        if len(fitting) > MOST_CHOICES:
            said += f" and {len(fitting) - MOST_CHOICES} more: type a few letters"
        self.set_notes([*self.notes, f"configured: {said}"])

    def set_notes(self, notes: Sequence[str]) -> None:
        """Show other notes, when they were found later."""
        box = self.query_one("#form-notes", Static)
        box.styles.min_height = box.size.height  # fewer lines do not move the form under the person's eyes
        box.update(Content("\n".join([*notes, FORM_KEYS])))

    def say(self, line: str) -> None:
        """Show why it was not done."""
        self.query_one("#form-error", Static).update(Content(line))


class TextDialog(ModalScreen[None]):
    """A text to read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,f1,question_mark", "dismiss", show=False),
    ]

    def __init__(self, title: str, entries: Sequence[Entry]) -> None:
        super().__init__()
        self.heading = title
        self.entries = entries

    def compose(self) -> ComposeResult:
        """A box with the text, scrolled with the usual keys."""
        with Window(f"{self.heading}  (Esc closes, j k scroll)"):
            yield Transcript(id="reading", most=None)

    def on_mount(self) -> None:
        """Show the text from its beginning."""
        reading = self.query_one("#reading", Transcript)
        for entry in self.entries:
            reading.add(entry)
        reading.follow = False
        reading.action_first()
        reading.focus()


class PaletteDialog(ModalScreen[str | None]):
    """Rows to choose from, narrowed by what is typed: by default all commands, where a disabled one says why."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+p", "dismiss(None)", show=False),
        Binding("down,ctrl+n", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
    ]
    COLUMNS = (Column("command", 32), Column("key", 6), Column("what it does, or why not now", 20, grow=True))

    def __init__(
        self,
        rows: Sequence[Row],
        title: str = "Commands",
        columns: Sequence[Column] = COLUMNS,
        placeholder: str = "words of a command",
    ) -> None:
        super().__init__()
        self.rows = rows
        self.heading = title
        self.columns = columns
        self.placeholder = placeholder

    def compose(self) -> ComposeResult:
        """A line to type in over the rows that fit it."""
        with Window(f"{self.heading}  (Enter does it, Esc closes)"):
            yield line_input(placeholder=self.placeholder, id="palette-words")
            yield RowList(self.columns, id="palette-rows")

    def on_mount(self) -> None:
        """Show all commands."""
        self.query_one(RowList).show(self.rows)
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        rows = self.query_one(RowList)
        rows.set_filter(event.value)
        rows.action_first()

    @on(Input.Submitted)
    def _choose(self) -> None:
        key = self.query_one(RowList).key
        self.dismiss(str(key) if key is not None else None)

    def action_move(self, step: int) -> None:
        """Move among the commands while typing."""
        self.query_one(RowList).action_move(step)


def palette_row(id: str, title: str, key: str, help: str, reason: str | None) -> Row:
    """A command as a row of the palette."""
    if reason:
        return Row(id, (Cell(title, "dim"), Cell(key, "dim"), Cell(f"not now: {reason}", "warn")))
    return Row(id, (Cell(title), Cell(key), Cell(help, "dim")))
