"""A log on the screen: follows its end until the reader scrolls up, then counts what came."""

import re
from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from tara_tui.widgets.line_view import LineView

MAX_LINES = 20_000  # kept while following
MAX_HELD_LINES = 60_000  # kept while the reader is scrolled up
SHIFT = 16  # cells for one step to the side
BAD = re.compile(r"\b(error|traceback|exception|failed|fatal|nan)\b", re.IGNORECASE)
WARN = re.compile(r"\bwarn(ing)?\b", re.IGNORECASE)


class LogView(LineView):
    """Clean lines, the unfinished last one among them. Knows nothing of files."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h,left", "shift(-1)", show=False),
        Binding("l,right", "shift(1)", show=False),
    ]

    class FollowChanged(Message):
        """It began or ceased to follow, or the count of unseen lines moved."""

    class TopReached(Message):
        """The reader asks for what is above the first line."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[str] = []
        self.partial = ""
        self.follow = True
        self.unseen = 0
        self.left = 0
        self.filter = ""
        self._matches: list[str] | None = None  # the lines that pass the filter

    @property
    def shown(self) -> list[str]:
        """The complete lines on view: all, or those that pass the filter."""
        return self.lines if self._matches is None else self._matches

    def line_count(self) -> int:
        """The complete lines and the unfinished one."""
        return len(self.shown) + bool(self.partial)

    def draw(self, index: int, width: int) -> Strip:
        """One line; errors and warnings stand out."""
        lines = self.shown
        text = lines[index] if index < len(lines) else self.partial
        head = text[:400]
        kind = "bad" if BAD.search(head) else "warn" if WARN.search(head) else ""
        return self.text_strip(text, width, kind, self.left)

    def append(self, lines: Sequence[str], partial: str = "", uncounted: int = 0) -> None:
        """Add complete lines and put `partial` in place of the unfinished one. One batch, one repaint."""
        if not lines and partial == self.partial:
            return
        self.partial = partial
        self.lines.extend(lines)
        new = len(lines) + uncounted
        if self._matches is not None:
            matching = [line for line in lines if self._passes(line)]
            self._matches.extend(matching)
            new = len(matching)
        self._trim()
        if self.follow:
            self.top = self.lowest_top
            self.refresh()
        else:
            self.unseen += new
            self.refresh_line(self.line_count() - 1)
            if new:
                self.post_message(self.FollowChanged())

    def prepend(self, lines: Sequence[str]) -> None:
        """Add lines above the first; what the reader sees stays where it is."""
        self.lines[:0] = lines
        moved = len(lines)
        if self._matches is not None:
            matching = [line for line in lines if self._passes(line)]
            self._matches[:0] = matching
            moved = len(matching)
        self.top += moved
        self.refresh()

    def clear(self) -> None:
        """Begin anew, following."""
        self.lines.clear()
        self.partial, self.unseen, self.top, self.left, self.follow = "", 0, 0, 0, True
        if self._matches is not None:
            self._matches = []
        self.refresh()
        self.post_message(self.FollowChanged())

    def set_filter(self, words: str) -> None:
        """Show only lines that hold all the words, in any case; a word after '!' must be absent."""
        if words == self.filter:
            return
        self.filter = words
        self._matches = [line for line in self.lines if self._passes(line)] if words.strip() else None
        self.top = self.lowest_top
        self.follow, self.unseen = True, 0
        self.refresh()
        self.post_message(self.FollowChanged())

    def _passes(self, line: str) -> bool:
        text = line.lower()
        words = self.filter.lower().split()
        return all((word[1:] not in text) if word[0] == "!" and word[1:] else word in text for word in words)

    def _trim(self) -> None:
        limit = MAX_LINES if self.follow else MAX_HELD_LINES
        for lines in (self.lines, self._matches):
            if lines is not None and (gone := len(lines) - limit) > 0:
                del lines[:gone]
                if lines is self.shown:
                    self.top = max(0, self.top - gone)

    def scrolled(self) -> None:
        """Follow at the end, and only there."""
        follow = self.top >= self.lowest_top
        if follow != self.follow:
            self.follow = follow
            self.unseen = 0
            self.post_message(self.FollowChanged())

    def on_resize(self) -> None:
        """Stay at the end while following."""
        if self.follow:
            self.top = self.lowest_top

    def action_move(self, step: int) -> None:
        """Scroll by lines; at the top, ask for what is above."""
        self._ask_above(step)
        super().action_move(step)

    def action_page(self, step: int) -> None:
        """Scroll by pages; at the top, ask for what is above."""
        self._ask_above(step)
        super().action_page(step)

    def _ask_above(self, step: int) -> None:
        if step < 0 and self.top == 0:
            self.post_message(self.TopReached())

    def action_shift(self, step: int) -> None:
        """Scroll sideways through long lines."""
        left = max(0, self.left + step * SHIFT)
        if left != self.left:
            self.left = left
            self.refresh()
