"""A recommendation as lines of text, for commands and the console."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from core.phases.choices import Choice, Figure, Ranked
from core.text import size, span, table

if TYPE_CHECKING:
    from core.phases.recommending import Recommendation

MARKS = "m measured, d by a dry run, e estimated; KL from F16 in nats a token, share of same top tokens as F16"
_HEADS = ("", "choice", "size  ", "memory  ", "tok/s  ", "KL  ", "same  ")  # fits a window of the smallest screen
_UNKNOWN = "?  "


def lines(found: "Recommendation") -> list[str]:
    """The choices in order with the reason of each under it (indented by three), what cannot be built, where estimates
    come from, how far sizes were off, and what to do."""
    shown = [row for row in found.rows if not row.choice.cannot]
    head, *rows = table(_HEADS, [_cells(row) for row in shown], right=(2, 3, 4, 5, 6)).splitlines()
    text = [f"{found.title}: {_asked(found)}", head]
    for row, line in zip(shown, rows, strict=True):
        text += [line, f"     {'; '.join(filter(None, (row.why, row.choice.note, _time(row.choice))))}"]
    text.append(MARKS)
    text += [*_not_here(found), *_sources(found), *_errors(found), found.verdict]
    best = found.best
    if best is not None and best.choice.command:
        text.append(f"to build it: {best.choice.command}")
    return text


def _cells(row: Ranked) -> tuple[str, ...]:
    one = row.choice
    return (
        ">" if row.recommended else " ",
        one.name,
        _cell(one.bytes, size),
        _cell(one.memory, size),
        _cell(one.speed, lambda value: f"{value:.1f}"),
        _cell(one.kl, lambda value: f"{value:.4f}"),
        _cell(one.same_top, lambda value: f"{value:.0%}"),
    )


def _time(one: Choice) -> str:
    if one.there:
        return "built"
    return "time to build not known" if one.seconds is None else f"{_cell(one.seconds, span)} to build"


def _cell(one: Figure | None, form: Callable[[float], str]) -> str:
    return _UNKNOWN if one is None else f"{form(one.value)} {one.by[0]}"


def _asked(found: "Recommendation") -> str:
    bounds = found.bounds
    said = []
    if bounds.target is not None:
        said.append(f"files of at most {size(bounds.target)}")
    if bounds.same_top is not None:
        said.append(f"same top token at least {bounds.same_top:.1%}")
    if bounds.kl is not None:
        said.append(f"KL at most {bounds.kl:g}")
    if bounds.memory is not None:
        said.append(f"memory at most {size(max(0, bounds.memory))} ({bounds.memory_of})")
    if bounds.speed:
        said.append("speed counts")
    return ", ".join(said)


def _not_here(found: "Recommendation") -> list[str]:
    reasons: dict[str, list[Choice]] = {}
    for row in found.rows:
        if row.choice.cannot:
            reasons.setdefault(row.choice.cannot, []).append(row.choice)
    return [f"never recommended, {why}: {', '.join(_grouped(of))}" for why, of in reasons.items()]


def _grouped(choices: list[Choice]) -> list[str]:
    """Choices by technique, with their types where not all have one."""
    found: dict[str, list[str]] = {}
    for one in choices:
        found.setdefault(one.technique, []).append(one.quantization)
    return [f"{name} ({', '.join(types)})" for name, types in found.items()]


def _sources(found: "Recommendation") -> list[str]:
    """Where the estimates of the first choice come from."""
    first = next((row.choice for row in found.rows if not row.choice.cannot), None)
    if first is None:
        return []
    named = (("memory", first.memory), ("tokens/s", first.speed), ("KL", first.kl), ("same top", first.same_top))
    said = [f"{name}: {one.source}" for name, one in named if one is not None and one.by == "estimated"]
    return [f"estimates of {first.name}: {'; '.join(said)}"] if said else []


def _errors(found: "Recommendation") -> list[str]:
    """For each choice that is built, how far its size is from what the dry run says."""
    return [
        f"{one.name} is built: {size(one.bytes.value)}, the dry run says {size(one.predicted_bytes)} ({error:+.3%})"
        for one in (row.choice for row in found.rows)
        if (error := one.prediction_error) is not None and one.bytes is not None
    ]
