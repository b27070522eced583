"""A conversation with one model file, or one adapter on its base: nothing to choose, but a crisis is one here too."""

from collections.abc import Collection, Mapping

from core.routing import Decision
from core.routing.crisis import Crisis, find_crisis, resources_for
from core.routing.data import DEFAULT_SETTINGS
from core.routing.decision import ENCODER, GATE_BY_ENCODER, GATE_BY_LETTERS, KEYWORDS
from core.routing.emotion import EmotionReader, read_emotion
from core.routing.message_reader import WARM_UP, MessageReader
from core.routing.past import Past
from core.routing.words import normalise
from core.routing.written import Written


class OnlyOne:
    """Sends every message to `domain`, None for a model without one. `resources` are the texts for a crisis by kind."""

    def __init__(self, domain: str | None, resources: Mapping[str, str]) -> None:
        self._domain = domain
        self._resources = resources
        self.reader = MessageReader()
        self.read_emotion: EmotionReader = read_emotion

    @property
    def weights(self) -> dict[str, float]:
        """The default ones; nothing is weighed."""
        return dict(DEFAULT_SETTINGS["weights"])

    @property
    def method(self) -> str:
        """By what messages are read: looks for the encoder."""
        return KEYWORDS if self.reader.encoder() is None else ENCODER

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
        unavailable: Mapping[str, str] | None = None,
        crisis_before: Crisis | None = None,
    ) -> Decision:
        """The one there is, or the base alone where that is `unavailable` and nobody in danger; of a crisis the kind
        and what to show."""
        written = Written(text)
        plain = written.plain
        vectors = self.reader.read(written)
        crisis_vectors = vectors.crisis if vectors is not None else None
        found = find_crisis(written.crisis, crisis_vectors, crisis_before)
        if found is not None:
            self.reader.forget(plain)
        if crisis_before is not None and previous is not None:
            self.reader.forget(normalise(previous))
        topic = vectors.topic if vectors is not None else None
        gone = {name: why for name, why in (unavailable or {}).items() if name == self._domain and found is None}
        reason = "the only one there is" if not gone else "no domain can answer now"
        return Decision(
            domain=self._domain if not gone else None,
            confidence=1.0 if not gone else 0.0,
            unsure=bool(gone),
            reason=reason if found is None else f"crisis wording ({found.kind})",
            crisis=found,
            resources=resources_for(found.kind, self._resources) if found is not None else None,
            urgency=written.urgency,
            complexity=written.complexity,
            emotion=(read_emotion if found is not None else self.read_emotion)(plain, written.words, topic),
            candidates=(),
            weights=dict(weights) if weights is not None else self.weights,
            unavailable=gone,
            crisis_method=GATE_BY_ENCODER if crisis_vectors is not None else GATE_BY_LETTERS,
            note=self.reader.note if vectors is None else "",
        )

    def use(self, setting: str) -> None:
        """Take the encoder that messages are read with."""
        self.reader.use(setting)

    def use_resources(self, resources: Mapping[str, str]) -> None:
        """Show these texts in a crisis from now on, by kind."""
        self._resources = resources

    def start(self) -> None:
        """Find and start the encoder now, so that the first message does not wait for it."""
        self.reader.read(Written(WARM_UP))

    def close(self) -> None:
        """End the encoder's process."""
        self.reader.close()
