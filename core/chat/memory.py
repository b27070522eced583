"""A person's earlier messages as a conversation holds them: feelings and domains, never words."""

import time
from collections.abc import Callable, Iterable

from core.routing import Decision
from core.routing.past import HALF_LIFE_S, Moment, Past, past_of

MOST_MOMENTS = 500  # older ones have faded


class Memory:
    """Moments in the order of time; what they leave now is `past`. In this process; `core.chat.history` keeps them."""

    def __init__(
        self,
        moments: Iterable[Moment] = (),
        half_life_s: float = HALF_LIFE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._moments = list(moments)[-MOST_MOMENTS:]
        self._half_life_s = half_life_s
        self._now = now

    def past(self) -> Past:
        """What is left now, rounded so that routing decisions can be remembered."""
        return past_of(self._moments, self._now(), self._half_life_s).rounded()

    def add(self, decision: Decision, domain: str | None) -> None:
        """Take in one message that was answered; of a crisis nothing."""
        if decision.crisis is None:
            self._moments.append(Moment(self._now(), domain, trusted(decision)))
            del self._moments[:-MOST_MOMENTS]

    def forget(self) -> None:
        """Take nothing from before any more."""
        self._moments.clear()


def trusted(decision: Decision) -> dict[str, float]:
    """The emotions of a message as far as the reading is trusted: each value times the confidence."""
    return {name: value * decision.emotion.confidence for name, value in decision.emotion.values.items()}
