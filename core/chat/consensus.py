"""Where the router is torn between two domains: both answer, and a stated rule takes one answer."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from core.chat.client import Done
from core.chat.protocol import EngineClosed, EngineError, Judged

LIMIT_S = 30.0  # for both answers and their comparison; the first is given in any case
RULE = "the answer that its question makes more probable, in the eyes of the base without an adapter"
TIE = 0.01  # nats a token; within it the domain the router put first answers


@dataclass(frozen=True)
class Said:
    """One domain's answer: what it took, and the mean log-probability (nats a token) that the base without an adapter
    gives it after its question, and after none."""

    domain: str
    text: str
    tokens: int
    seconds: float
    asked: float
    unasked: float

    @property
    def gain(self) -> float:
        """How much more probable the question makes the answer, in nats a token: a phrase that would fit any question
        gains nothing, however fluent it is (the normalisation of Holtzman et al. 2021, "Surface form competition")."""
        return self.asked - self.unasked


@dataclass(frozen=True)
class Compared:
    """Two answers and which was taken. `seconds` is all of it, judging included."""

    answers: tuple[Said, Said]
    chosen: str
    seconds: float
    rule: str = RULE

    @property
    def other(self) -> Said:
        """The answer that was not taken."""
        return next(one for one in self.answers if one.domain != self.chosen)

    def line(self) -> str:
        """It in one line."""
        gains = ", ".join(f"{one.domain} {one.gain:+.2f}" for one in self.answers)
        tokens = sum(one.tokens for one in self.answers)
        return f"{self.chosen} of two ({gains} nats a token from the question; {tokens} tokens in {self.seconds:.1f} s)"


def choose(first: Said, second: Said) -> str:
    """The domain whose answer is taken: the larger gain, the first where they are as good as equal."""
    return second.domain if second.gain > first.gain + TIE else first.domain


def compare(
    first: tuple[str, Done, float],
    other: str,
    ask: Callable[[str], Iterable[object]],
    judge: Callable[[str], Judged],
    cancel: Callable[[], None],
    stopped: Callable[[], bool],
    limit_s: float = LIMIT_S,
) -> Compared | str:
    """Have `other` answer too and compare; or why that was not done, '' where the person stopped it.

    `first` is the domain that has answered, its answer and the seconds it took. The second is begun only where half of
    `limit_s` is left, and cancelled when it is over. Raises EngineClosed.
    """
    began = time.monotonic()
    if first[2] > limit_s / 2:
        return f"one answer took {first[2]:.0f} s, too long for a second within {limit_s:g} s"
    late = threading.Event()

    def end() -> None:
        late.set()
        cancel()

    timer = threading.Timer(limit_s - first[2], end)
    timer.daemon = True
    timer.start()
    try:
        second: Done | None = None
        for event in ask(other):
            if isinstance(event, Done):
                second = event
            elif late.is_set():  # it fell due before the second answer could hear of it
                cancel()
        if stopped():
            return ""
        if second is None or second.stopped_by == "cancelled":
            return f"{other} was not done within {limit_s:g} s"
        seconds = time.monotonic() - began
        if not first[1].text.strip() or not second.text.strip():
            return f"{other if first[1].text.strip() else first[0]} said nothing"
        one, two = judge(first[1].text), judge(second.text)
    except EngineClosed:
        raise
    except EngineError as error:
        return f"{other} could not answer: {error.message}"
    finally:
        timer.cancel()
    answers = (
        Said(first[0], first[1].text, first[1].tokens, first[2], one.asked, one.unasked),
        Said(other, second.text, second.tokens, seconds, two.asked, two.unasked),
    )
    return Compared(answers, choose(*answers), first[2] + time.monotonic() - began)
