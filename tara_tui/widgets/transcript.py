"""A conversation on the screen: entries wrapped to the width, the last of them growing."""

from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from textual.strip import Strip

from tara_tui.widgets.line_view import LineView

MAX_ENTRIES = 200


@dataclass(frozen=True)
class Entry:
    """A piece of a conversation. `text` is clean; `kind` is the look of all its lines."""

    text: str
    kind: str = ""
    indent: int = 0  # cells before every line but the first of a paragraph


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """Text in lines of at most `width` cells, broken between words where that can be."""
    lines: list[str] = []
    room, margin = max(indent + 1, width), " " * indent
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.expandtabs(4).split(" "):
            joined = f"{line} {word}" if line else word
            if cell_len(joined) <= room:
                line = joined
                continue
            if line.strip():
                lines.append(line)
                word = margin + word
            *whole, line = chop_cells(word, room) or [""]
            lines.extend(whole)
        lines.append(line)
    return lines


class Transcript(LineView):
    """Entries in order, the newest `most` of them (None: all); follows the end until the reader scrolls up."""

    def __init__(self, *, id: str | None = None, most: int | None = MAX_ENTRIES) -> None:
        super().__init__(id=id)
        self.most = most
        self.entries: list[Entry] = []
        self.follow = True
        self.empty = ""  # said where there is no entry
        self._lines: list[tuple[str, str]] = []
        self._last_begins = 0  # the line at which the last entry begins

    def add(self, entry: Entry) -> None:
        """Add an entry and go to the end."""
        self.entries.append(entry)
        self.follow = True
        if self.most is not None and len(self.entries) > self.most:
            del self.entries[0]
            self._wrap_all()
        else:
            self._last_begins = len(self._lines)
            self._wrap_last()

    def replace_last(self, entry: Entry) -> None:
        """Put an entry in place of the last one, as it grows."""
        if self.entries and entry != self.entries[-1]:
            self.entries[-1] = entry
            del self._lines[self._last_begins :]
            self._wrap_last()

    def clear(self) -> None:
        """Forget all entries."""
        self.entries.clear()
        self._wrap_all()

    def _wrap_all(self) -> None:
        entries, self.entries, self._lines = self.entries, [], []
        for entry in entries:
            self.entries.append(entry)
            self._last_begins = len(self._lines)
            self._lines.extend((line, entry.kind) for line in wrap(entry.text, self.size.width, entry.indent))
        self._settle()

    def _wrap_last(self) -> None:
        entry = self.entries[-1]
        self._lines.extend((line, entry.kind) for line in wrap(entry.text, self.size.width, entry.indent))
        self._settle()

    def _settle(self) -> None:
        self.top = self.lowest_top if self.follow else min(self.top, self.lowest_top)
        self.refresh()

    def scrolled(self) -> None:
        """Follow at the end, and only there."""
        self.follow = self.top >= self.lowest_top

    def on_resize(self) -> None:
        """Wrap anew to the width."""
        self._wrap_all()

    def line_count(self) -> int:
        """How many lines the entries take."""
        return len(self._lines) or bool(self.empty)

    def draw(self, index: int, width: int) -> Strip:
        """One wrapped line."""
        text, kind = self._lines[index] if self._lines else (self.empty, "dim")
        return self.text_strip(text, width, kind)
