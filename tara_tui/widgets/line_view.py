"""A scrolling view drawn line by line: it repaints only the lines that changed.

It keeps its own offset in place of a virtual region with scroll bars, so a log of any length costs a screenful.
"""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

KINDS = ("good", "busy", "warn", "bad", "dim", "head", "cursor")


class LineView(Widget, can_focus=True):
    """Lines with a title on the border; sub-classes say how many there are and draw one."""

    ALLOW_SELECT = False
    fixed = 0  # lines at the top that do not scroll

    DEFAULT_CSS = """
    LineView {
        height: 1fr;
        & > .line--good { color: $success; }
        & > .line--busy { color: $secondary; }
        & > .line--warn { color: $warning; }
        & > .line--bad { color: $error; }
        & > .line--dim { text-style: dim; }
        & > .line--head { text-style: underline; }
        & > .line--cursor { text-style: bold underline; }
        &:focus > .line--cursor { text-style: reverse; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"line--{kind}" for kind in KINDS}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", show=False),
        Binding("k,up", "move(-1)", show=False),
        Binding("pagedown,space", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("g,home", "first", show=False),
        Binding("G,end", "last", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.top = 0
        self._title = ""
        self._kind_styles: dict[str, Style] = {}

    # What a sub-class gives.

    def line_count(self) -> int:
        """How many lines there are to scroll through."""
        raise NotImplementedError

    def draw(self, index: int, width: int) -> Strip:
        """Line `index` of those that scroll, `width` cells wide."""
        raise NotImplementedError

    def draw_fixed(self, y: int, width: int) -> Strip:
        """Line `y` of the fixed ones."""
        raise NotImplementedError

    # What it is given.

    @property
    def page(self) -> int:
        """How many scrolling lines are visible."""
        return max(1, self.size.height - self.fixed)

    @property
    def lowest_top(self) -> int:
        """The offset at which the last line is the last visible."""
        return max(0, self.line_count() - self.page)

    def style(self, kind: str) -> Style:
        """The look of a kind of text; '' is the plain one."""
        if not kind:
            return self.rich_style
        if kind not in self._kind_styles:
            self._kind_styles[kind] = self.get_component_rich_style(f"line--{kind}")
        return self._kind_styles[kind]

    def notify_style_update(self) -> None:
        """Forget the looks when the theme or the focus changed."""
        self._kind_styles.clear()
        super().notify_style_update()

    def on_focus(self) -> None:
        """Draw the cursor as focused."""
        self._kind_styles.clear()
        self.refresh()

    def on_blur(self) -> None:
        """Draw the cursor as not focused."""
        self._kind_styles.clear()
        self.refresh()

    def text_strip(self, text: str, width: int, kind: str = "", left: int = 0) -> Strip:
        """Plain text as a line of exactly `width` cells, beginning at cell `left` of the text."""
        style = self.style(kind)
        return Strip([Segment(text, style)]).crop_extend(left, left + width, style)

    def set_title(self, title: str) -> None:
        """Show a title on the border; an unchanged one costs nothing. Never read as markup."""
        if title != self._title:
            self._title = title
            self.border_title = Content(title)  # type: ignore[assignment]  # the setter takes content, the getter gives str

    @property
    def title(self) -> str:
        """The title as plain text."""
        return self._title

    def render_line(self, y: int) -> Strip:
        """Draw line `y` of the screen."""
        width = self.size.width
        if y < self.fixed:
            return self.draw_fixed(y, width)
        index = self.top + y - self.fixed
        return self.draw(index, width) if index < self.line_count() else Strip.blank(width, self.rich_style)

    def refresh_line(self, index: int) -> None:
        """Repaint line `index` if it is visible."""
        y = index - self.top + self.fixed
        if self.fixed <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def scroll_lines_to(self, top: int) -> None:
        """Make `top` the first visible line, as far as there are lines."""
        top = max(0, min(top, self.lowest_top))
        if top != self.top:
            self.top = top
            self.refresh()
        self.scrolled()

    def scrolled(self) -> None:
        """Called after each attempt to scroll, for sub-classes that follow an end."""

    def on_resize(self) -> None:
        """Keep the offset within the lines."""
        self.scroll_lines_to(self.top)

    def action_move(self, step: int) -> None:
        """Scroll by lines."""
        self.scroll_lines_to(self.top + step)

    def action_page(self, step: int) -> None:
        """Scroll by pages."""
        self.scroll_lines_to(self.top + step * max(1, self.page - 1))

    def action_first(self) -> None:
        """Go to the first line."""
        self.scroll_lines_to(0)

    def action_last(self) -> None:
        """Go to the last line."""
        self.scroll_lines_to(self.lowest_top)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll with the wheel."""
        event.stop()
        self.scroll_lines_to(self.top + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll with the wheel."""
        event.stop()
        self.scroll_lines_to(self.top - 3)
