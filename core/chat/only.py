"""A conversation with one model file, or one adapter on its base: nothing to choose, but a crisis is one here too."""

from collections.abc import Collection, Mapping

from core.routing import Decision
from core.routing.complexity import complexity_of
from core.routing.crisis import Crisis
from core.routing.crisis_reader import CrisisReader
from core.routing.data import DEFAULT_SETTINGS
from core.routing.emotion import EmotionReader, read_emotion
from core.routing.past import Past
from core.routing.urgency import urgency_of
from core.routing.words import normalise, split_words


class OnlyOne:
    """Sends every message to `domain`, None for a model without one. `resources` are the texts for a crisis by kind."""

    def __init__(self, domain: str | None, resources: Mapping[str, str]) -> None:
        self._domain = domain
        self._resources = resources
        self._gate = CrisisReader()
        self.read_emotion: EmotionReader = read_emotion

    @property
    def weights(self) -> dict[str, float]:
        """The default ones; nothing is weighed."""
        return dict(DEFAULT_SETTINGS["weights"])

    def route(
        self,
        text: str,
        previous_domain: str | None = None,
        resident: Collection[str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        past: Past | None = None,
        previous: str | None = None,
        seconds: float | None = None,
        crisis_before: Crisis | None = None,
    ) -> Decision:
        """The one there is; of a crisis the kind and what to show."""
        plain = normalise(text)
        words = split_words(plain)
        found = self._gate.find(plain, crisis_before)
        return Decision(
            domain=self._domain,
            confidence=1.0,
            unsure=False,
            reason="the only one there is" if found is None else f"crisis wording ({found.kind})",
            crisis=found,
            resources=self._resources[found.kind] if found is not None else None,
            urgency=urgency_of(plain),
            complexity=complexity_of(plain, words),
            emotion=(read_emotion if found is not None else self.read_emotion)(plain, words),
            candidates=(),
            weights=dict(weights) if weights is not None else self.weights,
        )

    def use(self, setting: str) -> None:
        """Take the encoder the crisis gate reads with."""
        self._gate.use(setting)

    def close(self) -> None:
        """End the encoder's process."""
        self._gate.close()
