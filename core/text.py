"""Text for people: figures in short, and text from elsewhere (log lines, model output, file names) made safe to print:
nothing in it can move a terminal's cursor, change its colours or title, ring, or turn the reading direction."""

import json
import re
import time
from collections.abc import Sequence
from typing import Any

NOT_MEASURED = "not measured"
GAP = 2  # spaces between the columns of a table
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # headers, and rows of as many cells
STAND_IN = "\N{REPLACEMENT CHARACTER}"
_FIGURE = re.compile(r"[+-]?\d[\d.,%]*")
_ESCAPE = "\N{SYMBOL FOR ESCAPE}"

# CSI sequences, strings (OSC, DCS, SOS, PM, APC) up to their terminator or the line's end, and short escapes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# The end of a text in the middle of one of them.
_OPEN = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*\x1b?|\x1b[ -/]*)\Z"
)
MOST_HELD = 4096  # characters of an unfinished sequence that are waited for
_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_TABLE: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), STAND_IN),
    **dict.fromkeys(_BIDI, STAND_IN),
    **dict.fromkeys((0x2028, 0x2029), "\N{SYMBOL FOR NEWLINE}"),
    **dict.fromkeys(range(0xD800, 0xE000), STAND_IN),  # lone surrogates cannot be written as UTF-8
    **dict.fromkeys(range(0xE0000, 0xE0080), STAND_IN),  # tag characters: text nobody sees
}


_HALVES = re.compile("[\ud800-\udfff]")
_ACTING = re.compile("[" + "".join(re.escape(chr(code)) for code in _TABLE if code >= 0x7F) + "]")


def clean(text: str) -> str:
    """`text` with every control visible and harmless; newlines and tabs stay.

    An escape sequence becomes one stand-in, as does each other control (C0, C1, DEL, bidirectional, line and
    paragraph separators, lone surrogates). Of a line overwritten with carriage returns, as progress bars do, the last
    state is kept. Cleaning twice changes nothing more.
    """
    if text.isprintable():
        return text
    text = _SEQUENCES.sub(_ESCAPE, text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text.translate(_TABLE)


def writable(text: str) -> str:
    """`text` with a replacement character for each half of a surrogate pair, which cannot be written anywhere: such
    stand for bytes that were not UTF-8."""
    return _HALVES.sub("\ufffd", text)


def escaped_json(text: str) -> str:
    """JSON text in which every character that could act on a terminal is written as an escape: the same value, harmless
    to look at. (JSON itself escapes only the controls below U+0020.)"""
    return text if text.isascii() and "\x7f" not in text else _ACTING.sub(lambda m: json.dumps(m.group())[1:-1], text)


class StreamCleaner:
    """`clean` for text that comes in pieces: an escape sequence that is cut in two is held back until it is whole, so
    that neither half is shown as letters. What is shown never holds a control, however the text is cut."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown after this piece."""
        text = self._held + piece
        open_at = _OPEN.search(text)
        at = open_at.start() if open_at is not None and len(text) - open_at.start() <= MOST_HELD else len(text)
        self._held = text[at:]
        return clean(text[:at])

    def finish(self) -> str:
        """What is left at the end."""
        text, self._held = self._held, ""
        return clean(text)


def size(count: float | None) -> str:
    """Bytes in decimal units, as disks are sold."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def span(seconds: float | None) -> str:
    """A time span: `42s`, `3m05s`, `2h10m`."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def iso(at: float) -> str:
    """A moment in local time with its offset; up to the minute its first 16 characters."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))


def columns_within(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Table]:
    """A table as several that stand below each other, each with the first column and as many of the others as fit into
    `width` characters."""
    widths = [max(len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    groups: list[list[int]] = [[0]]
    used = widths[0]
    for at in range(1, len(headers)):
        if len(groups[-1]) > 1 and used + GAP + widths[at] > width:
            groups.append([0])
            used = widths[0]
        groups[-1].append(at)
        used += GAP + widths[at]
    return [(tuple(headers[at] for at in group), [tuple(row[at] for at in group) for row in rows]) for group in groups]


def figure_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns of figures, which are set to the right."""
    return [at for at in range(len(rows[0]) if rows else 0) if all(_FIGURE.fullmatch(row[at]) for row in rows)]


def figure_table(one: Table) -> str:
    """A table with its columns of figures set to the right."""
    headers, rows = one
    return table(headers, rows, figure_columns(rows))


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """Columns under headers, widths from the content; the columns in `right` are set to the right."""
    cells = [[clean(str(cell)).replace("\n", " ") for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(headers))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((GAP * " ").join(parts).rstrip())
    return "\n".join(lines)


def percent(error: float | None, sign: str = "+") -> str:
    """An error of 0.1 as +10%, or without a sign; "-" where there is none."""
    return "-" if error is None else f"{100 * error:{sign}.0f}%"
