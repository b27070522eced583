"""A table of keyed rows: the cursor stays with its key, and only rows that changed are repainted."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip

from tara_tui.widgets.line_view import LineView

CUT_MARK = "~"  # at the end of a cell that did not fit


@dataclass(frozen=True)
class Column:
    """A column of fixed width. Those with the highest `drop` go first where the room is short; 0 never goes."""

    title: str
    width: int
    drop: int = 0
    right: bool = False
    grow: bool = False


@dataclass(frozen=True)
class Cell:
    """Clean text and the kind of its look."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """One thing, under the key by which it is known."""

    key: Hashable
    cells: tuple[Cell, ...]

    def has(self, words: str) -> bool:
        """Whether its text holds all words, in any case; a word after '!' must be absent."""
        text = " ".join(cell.text for cell in self.cells).lower()
        return all((word[1:] not in text) if word[0] == "!" and word[1:] else word in text for word in words.split())


def fit(text: str, width: int, right: bool = False) -> str:
    """Text in exactly `width` cells, cut with a mark where it is longer."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + CUT_MARK if width > 0 else ""
    return " " * (width - length) + text if right else text + " " * (width - length)


def widths(columns: Sequence[Column], room: int) -> list[int]:
    """The width of each column within `room` cells, one cell between them; 0 for one that is left out."""
    shown = list(columns)
    while len(shown) > 1 and sum(one.width + 1 for one in shown) - 1 > room:
        last = max(shown, key=lambda one: one.drop)
        if not last.drop:
            break
        shown.remove(last)
    spare = max(0, room - (sum(one.width + 1 for one in shown) - 1))
    growing = [one for one in shown if one.grow]
    return [0 if one not in shown else one.width + (spare // len(growing) if one in growing else 0) for one in columns]


class RowList(LineView):
    """Rows under a head line, with a cursor and a filter."""

    fixed = 1

    class Moved(Message):
        """The cursor came to another key (None: there is no row)."""

        def __init__(self, rows: "RowList", key: Hashable | None) -> None:
            super().__init__()
            self.rows = rows
            self.key = key

        @property
        def control(self) -> "RowList":
            """The list whose cursor moved."""
            return self.rows

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.rows: tuple[Row, ...] = ()
        self.shown: list[Row] = []
        self.cursor = 0
        self.filter = ""
        self.empty = ""  # said where there is no row
        self._key: Hashable | None = None

    @property
    def key(self) -> Hashable | None:
        """The key under the cursor, None where there is no row."""
        return self.shown[self.cursor].key if self.shown else None

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows; the cursor stays on its key, or near it where the key went."""
        if tuple(rows) == self.rows:
            return
        self.rows = tuple(rows)
        self._arrange()

    def set_filter(self, words: str) -> None:
        """Show only rows that hold all the words."""
        if words != self.filter:
            self.filter = words
            self._arrange()

    def select(self, key: Hashable) -> None:
        """Put the cursor on a key, if it is shown."""
        for index, row in enumerate(self.shown):
            if row.key == key:
                self._place(index)

    def _arrange(self) -> None:
        before = self.shown
        self.shown = [row for row in self.rows if row.has(self.filter.lower())] if self.filter else list(self.rows)
        if [row.key for row in before] == [row.key for row in self.shown] and before:
            for index, (old, new) in enumerate(zip(before, self.shown, strict=True)):
                if old != new:
                    self.refresh_line(index)
            return
        keys = [row.key for row in self.shown]
        cursor = keys.index(self._key) if self._key in keys else self.cursor
        self.refresh()
        self._place(cursor)

    def _place(self, index: int) -> None:
        index = max(0, min(index, len(self.shown) - 1))
        if index != self.cursor:
            old, self.cursor = self.cursor, index
            self.refresh_line(old)
            self.refresh_line(index)
        if index < self.top:
            self.scroll_lines_to(index)
        elif index >= self.top + self.page:
            self.scroll_lines_to(index - self.page + 1)
        else:
            self.scroll_lines_to(self.top)
        if self.key != self._key:
            self._key = self.key
            self.post_message(self.Moved(self, self._key))

    def on_resize(self) -> None:
        """Keep the cursor visible."""
        self._place(self.cursor)

    def line_count(self) -> int:
        """One line a row, or one for the words said where there is none."""
        return len(self.shown) or 1

    def draw_fixed(self, y: int, width: int) -> Strip:
        """The head line."""
        parts = [
            fit(column.title, room, column.right)
            for column, room in zip(self.columns, widths(self.columns, width), strict=True)
            if room
        ]
        return self.text_strip(" ".join(parts), width, "head")

    def draw(self, index: int, width: int) -> Strip:
        """One row; the one under the cursor in one look, so that it is plain without colours."""
        if not self.shown:
            words = f"nothing holds {self.filter!r}; Esc clears the filter" if self.filter else self.empty
            return self.text_strip(words, width, "dim")
        row = self.shown[index]
        base = self.style("cursor" if index == self.cursor else "")
        segments: list[Segment] = []
        rooms = widths(self.columns, width)
        for column, cell, room in zip(self.columns, row.cells, rooms, strict=True):
            if not room:
                continue
            if segments:
                segments.append(Segment(" ", base))
            style = base if index == self.cursor or not cell.kind else self.style(cell.kind)
            segments.append(Segment(fit(cell.text, room, column.right), style))
        return Strip(segments).crop_extend(0, width, base)

    def action_move(self, step: int) -> None:
        """Move the cursor by rows."""
        self._place(self.cursor + step)

    def action_page(self, step: int) -> None:
        """Move the cursor by pages."""
        self._place(self.cursor + step * max(1, self.page - 1))

    def action_first(self) -> None:
        """Move the cursor to the first row."""
        self._place(0)

    def action_last(self) -> None:
        """Move the cursor to the last row."""
        self._place(len(self.shown) - 1)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row that was clicked."""
        index = self.top + event.get_content_offset_capture(self).y - self.fixed
        if 0 <= index < len(self.shown):
            self._place(index)
