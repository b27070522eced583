"""A person's earlier messages as a conversation holds them: feelings and domains, never words."""

import time
from collections.abc import Callable, Iterable

from core.routing import Decision
from core.routing.emotion import PRESENT
from core.routing.past import HALF_LIFE_S, Moment, Past, faded, past_of, with_moment


class Memory:
    """What messages left, from `moments` in the order of time and from those taken in since. In this process;
    `core.chat.history` keeps them."""

    def __init__(
        self,
        moments: Iterable[Moment] = (),
        half_life_s: float = HALF_LIFE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._half_life_s = half_life_s
        self._now = now
        self._at = now()
        self._past = past_of(moments, self._at, half_life_s)
        self._last: tuple[Past, Moment] | None = None  # as it stood before the newest message, and that message

    def past(self) -> Past:
        """What is left now, rounded so that routing decisions can be remembered."""
        return faded(self._past, self._now() - self._at, self._half_life_s).rounded()

    def add(self, decision: Decision, domain: str | None) -> None:
        """Take in one message that was answered; of a crisis nothing."""
        self._last = None
        if decision.crisis is None:
            at = self._now()
            before = faded(self._past, at - self._at, self._half_life_s)
            self._last = before, Moment(at, domain, trusted(decision))
            self._at, self._past = at, with_moment(*self._last)

    def amend(self, domain: str | None) -> None:
        """The newest message was answered by another domain after all."""
        if self._last is not None:
            before, moment = self._last
            self._last = before, moment._replace(domain=domain)
            self._past = with_moment(*self._last)

    def forget(self) -> None:
        """Take nothing from before any more."""
        self._past, self._last = Past(), None


def trusted(decision: Decision) -> dict[str, float]:
    """A message's emotions, as strong as they are, as far as the reading is trusted: intensity times confidence for the
    strongest, for others that are there in proportion, 0 for those that are not."""
    feeling = decision.emotion
    most = max(feeling.values.values())
    felt = feeling.intensity * feeling.confidence
    return {name: felt * value / most if value >= PRESENT else 0.0 for name, value in feeling.values.items()}
