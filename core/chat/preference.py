"""Speed or quality: what a person's preference changes, as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from core.errors import InvalidInput

_T = TypeVar("_T")


@dataclass(frozen=True)
class Preference:
    """`context` is how much of a conversation the model is given, in tokens, `messages` how many earlier messages at
    least where there are more (None: all that fit), `max_tokens` the longest answer. `speed_share` is how the router's
    weights of speed and quality are divided between the two (1: all to speed), None for as configured."""

    name: str
    context: int
    messages: int | None
    max_tokens: int
    speed_share: float | None

    def weights(self, configured: Mapping[str, float]) -> dict[str, float]:
        """The router's weights under this preference; their sum stays."""
        if self.speed_share is None:
            return dict(configured)
        both = configured["speed"] + configured["quality"]
        return {**configured, "speed": both * self.speed_share, "quality": both * (1 - self.speed_share)}

    def recent(self, history: Sequence[_T]) -> Sequence[_T]:
        """The messages of a history that the model is given. Old ones go `messages` at a time, so that between two such
        cuts each prompt begins as the one before did and need not be evaluated again."""
        if self.messages is None:
            return history
        return history[max(0, len(history) - self.messages) // self.messages * self.messages :]

    def line(self) -> str:
        """It in a line."""
        kept = "all messages that fit" if self.messages is None else f"the last {self.messages} messages or more"
        return f"prefer {self.name}: {self.context} tokens of context, {kept}, answers up to {self.max_tokens} tokens"


PREFERENCES: dict[str, Preference] = {
    one.name: one
    for one in (
        Preference("speed", 1024, 4, 128, 1.0),
        Preference("balanced", 2048, None, 256, None),
        Preference("quality", 4096, None, 512, 0.0),
    )
}
BALANCED = PREFERENCES["balanced"]


def preference(name: str) -> Preference:
    """The preference of this name. Raises InvalidInput for another."""
    found = PREFERENCES.get(name)
    if found is None:
        raise InvalidInput(f"there is no preference {name!r}", f"one of {', '.join(PREFERENCES)}")
    return found
