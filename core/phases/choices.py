"""Ways to build a model file, held against what was asked for and put in an order: pure functions.

The rule. What can be built goes before what cannot, and what fits every bound before what does not. Among what fits

- with a wish for speed: the highest share of same top tokens times the square root of the tokens a second over the
  fastest that fits, so that twice the speed is worth three tenths of the agreement, and no more;
- with a bound on quality and none on size: the smallest file, for all of them are good enough;
- else: the lowest KL divergence.

Where two are alike in that (2 %), the smaller file, then the simpler technique, goes first. What fits and has no known
quality comes after all that has. What does not fit is put by how far it misses the bound it misses most. Only a choice
that fits is ever recommended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from core.text import size

MEASURED, DRY_RUN, ESTIMATED = "measured", "dry run", "estimated"
ALIKE = 0.02
SPEED_POWER = 0.5
SIMPLEST = ("as-is", "standard", "hybrid", "sparse", "distilled")


@dataclass(frozen=True)
class Figure:
    """A value, how it was come by (MEASURED, DRY_RUN or ESTIMATED), and from what."""

    value: float
    by: str
    source: str = ""


@dataclass(frozen=True)
class Choice:
    """One way to build: its figures (None: not known), the command, and `cannot`, why this version or this model cannot
    build it ('': it can). `largest` is the bytes of its largest file, `bytes` those of all; `kl` in nats a token;
    `same_top` a share; `speed` in tokens a second; `memory` in bytes while one chats; `lacks`: what the machine lacks
    to build it."""

    technique: str
    quantization: str
    command: str = ""
    cannot: str = ""
    bytes: Figure | None = None
    largest: Figure | None = None
    predicted_bytes: int | None = None  # of the dry run; beside `bytes` where the files are there
    memory: Figure | None = None
    speed: Figure | None = None
    kl: Figure | None = None
    same_top: Figure | None = None
    loss_change: Figure | None = None  # of the held-out loss against that of F16, nats a token
    seconds: Figure | None = None
    lacks: str = ""
    note: str = ""
    there: bool = False  # its files are built

    @property
    def name(self) -> str:
        """The choice in words."""
        return f"{self.quantization} {self.technique}"

    @property
    def blind(self) -> bool:
        """Whether nothing is known of its quality."""
        return self.kl is None and self.same_top is None

    @property
    def prediction_error(self) -> float | None:
        """How far the size of the built files is from what the dry run said: 0.01 is one per cent larger."""
        if not self.there or self.bytes is None or not self.predicted_bytes:
            return None
        return self.bytes.value / self.predicted_bytes - 1


@dataclass(frozen=True)
class Bounds:
    """What was asked for: bytes of each file, bytes of memory with whose limit it is, the least share of same top
    tokens, the most KL divergence, and whether speed counts."""

    target: int | None = None
    memory: int | None = None
    memory_of: str = ""
    same_top: float | None = None
    kl: float | None = None
    speed: bool = False

    @property
    def quality(self) -> bool:
        """Whether quality is bounded."""
        return self.same_top is not None or self.kl is not None


@dataclass(frozen=True)
class Ranked:
    """A choice at its place. `misses`: by how much it is over each bound, as a share (infinite where that is not
    known); `why`: why it is where it is."""

    choice: Choice
    fits: bool
    recommended: bool
    why: str
    misses: tuple[float, ...] = ()


def rank(choices: Sequence[Choice], bounds: Bounds) -> list[Ranked]:
    """All choices in order, the recommended one first and marked; none is marked where none fits."""
    missed = {id(one): misses(one, bounds) for one in choices}
    fitting = [one for one in choices if not one.cannot and not missed[id(one)]]
    others = [one for one in choices if not one.cannot and missed[id(one)]]
    fastest = max((one.speed.value for one in fitting if one.speed is not None), default=0.0)
    fitting = _in_order(fitting, bounds, fastest)
    others.sort(key=lambda one: (max(share for share, _ in missed[id(one)]), _bytes(one)))
    ranked = [
        Ranked(one, True, at == 0, _best(one, bounds) if at == 0 else _behind(one, fitting[0], bounds))
        for at, one in enumerate(fitting)
    ]
    for one in others:
        shares, words = zip(*missed[id(one)], strict=True)
        ranked.append(Ranked(one, False, False, "; ".join(words), shares))
    return ranked + [Ranked(one, False, False, one.cannot) for one in choices if one.cannot]


def misses(one: Choice, bounds: Bounds) -> list[tuple[float, str]]:
    """The bounds that a choice does not keep, each with how far it is over, as a share, and in words."""
    found: list[tuple[float, str]] = []
    if one.lacks:
        found.append((math.inf, f"cannot be built here: {one.lacks}"))
    if bounds.target is not None:
        if one.largest is None:
            found.append((math.inf, "its size is not known"))
        elif one.largest.value > bounds.target:
            over = one.largest.value / bounds.target - 1
            found.append((over, f"{over:.1%} over the target of {size(bounds.target)}"))
    if bounds.memory is not None:
        if one.memory is None:
            found.append((math.inf, "its memory is not known"))
        elif one.memory.value > bounds.memory:
            over = one.memory.value / max(bounds.memory, 1) - 1
            found.append(
                (over, f"memory: {size(one.memory.value)} of {size(max(0, bounds.memory))} {bounds.memory_of}")
            )
    if bounds.kl is not None:
        if one.kl is None:
            found.append((math.inf, f"its KL is {_unknown(one)}"))
        elif one.kl.value > bounds.kl:
            found.append((one.kl.value / bounds.kl - 1 if bounds.kl else math.inf, f"KL above {bounds.kl:g}"))
    if bounds.same_top is not None:
        if one.same_top is None:
            found.append((math.inf, f"its share of same top tokens is {_unknown(one)}"))
        elif one.same_top.value < bounds.same_top:
            lost, allowed = 1 - one.same_top.value, 1 - bounds.same_top
            found.append((lost / allowed - 1 if allowed else math.inf, f"same top token below {bounds.same_top:.1%}"))
    return found


def worth(one: Choice, fastest: float) -> float:
    """What a choice is worth where speed counts; 0 where speed or agreement are not known."""
    if one.same_top is None or one.speed is None or fastest <= 0:
        return 0.0
    return one.same_top.value * float((one.speed.value / fastest) ** SPEED_POWER)


def _in_order(fitting: Sequence[Choice], bounds: Bounds, fastest: float) -> list[Choice]:
    def before(a: Choice, b: Choice) -> int:
        if bounds.speed:
            order = _compared(-worth(a, fastest), -worth(b, fastest))
        elif bounds.quality and bounds.target is None:
            order = 0  # sizes decide
        else:
            order = _compared(_kl(a), _kl(b))
        simpler = (_technique(a), _kl(a)) < (_technique(b), _kl(b))
        return order or _compared(_bytes(a), _bytes(b)) or (-1 if simpler else 1)

    # Being alike is not transitive, so the best is taken out again and again instead of sorting.
    left, found = list(fitting), []
    while left:
        best = min(left, key=cmp_to_key(before))
        found.append(best)
        left.remove(best)
    return found


def _compared(a: float, b: float) -> int:
    """-1, 0 or 1; values that differ by no more than ALIKE are the same. What is not known (infinite) is like itself
    alone."""
    known = math.isfinite(a) and math.isfinite(b)
    if a == b or (known and abs(a - b) <= ALIKE * max(abs(a), abs(b))):
        return 0
    return -1 if a < b else 1


def _kl(one: Choice) -> float:
    return one.kl.value if one.kl is not None else math.inf


def _bytes(one: Choice) -> float:
    return one.bytes.value if one.bytes is not None else math.inf


def _technique(one: Choice) -> int:
    return SIMPLEST.index(one.technique) if one.technique in SIMPLEST else len(SIMPLEST)


def _unknown(one: Choice) -> str:
    return "not measured" if one.there else "not known before it is built"


def _best(one: Choice, bounds: Bounds) -> str:
    if one.blind:
        return f"nothing of known quality fits; what this loses is {_unknown(one)}"
    if bounds.speed:
        return "most agreement for its speed among what fits"
    if bounds.quality and bounds.target is None:
        return "smallest that keeps the quality asked for"
    return "least KL among what fits"


def _behind(one: Choice, best: Choice, bounds: Bounds) -> str:
    """Why a choice that fits comes after the best."""
    if one.blind:
        return f"fits; what it loses is {_unknown(one)}"
    if _compared(_kl(one), _kl(best)) == 0 and _compared(_bytes(one), _bytes(best)) == 0:
        return f"fits; as good as {best.name}, which is simpler" if one.technique != best.technique else "fits"
    if bounds.speed:
        return "fits; less agreement for its speed"
    if bounds.quality and bounds.target is None:
        return f"fits; {_bytes(one) / _bytes(best) - 1:.0%} larger than needed" if _bytes(best) else "fits"
    if one.kl is None:
        return "fits; its KL is not known"
    if _compared(_kl(one), _kl(best)) == 0:
        return "fits; larger for the same KL"
    return f"fits; {_kl(one) / _kl(best):.1f} times its KL" if _kl(best) > 0 else f"fits; KL {_kl(one):.4f}"
