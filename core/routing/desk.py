"""The router together with an encoder: reads a message once, and decides by keywords where the encoder fails."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.encoder.client import Encoder, EncoderError
from core.errors import TaraError
from core.routing.conversation import Before
from core.routing.crisis import Crisis
from core.routing.data import load_routing_data, validate
from core.routing.decision import ENCODER, KEYWORDS, Decision
from core.routing.emotion import EmotionReader, read_emotion
from core.routing.message_reader import WARM_UP, MessageReader, Vectors
from core.routing.past import Past
from core.routing.router import Router
from core.routing.vectors import Embedding
from core.routing.words import normalise, split_words
from core.routing.written import Written


class Desk:
    """Routes messages as `Router` does, with the vectors of an encoder it holds. Close it, or use it in a `with`.

    The encoder is looked for at the first message: `setting` is `routing.encoder` of the workspace. Where the data's
    vectors are of another encoder, or it has none, its texts are read then, once. May be used from several threads.
    """

    def __init__(self, data: dict[str, Any], setting: str = "", source: str = "routing data") -> None:
        """Raises InvalidInput for data that cannot be routed with, naming `source`."""
        self._data = validate(data, source)
        self._ready = False  # whether the data was looked at with the encoder in hand
        self.reader = MessageReader(setting)
        self.router = Router(self._data)
        self.unavailable: Mapping[str, str] = {}  # domains that cannot answer, and why, where a route is told of none

    @classmethod
    def open(cls, path: Path, setting: str = "") -> "Desk":
        """A desk for a `routing.json`. Raises InvalidInput for a file that cannot be routed with."""
        return cls(load_routing_data(path), setting, str(path))

    def use(self, setting: str) -> None:
        """Take another encoder from now on, as `routing.encoder` names it."""
        with self.reader.held():
            if self.reader.use(setting):
                self._ready = False

    def use_resources(self, resources: Mapping[str, str]) -> None:
        """Show these texts in a crisis from now on, by kind, in place of those of the data."""
        with self.reader.held():
            self._data = {**self._data, "resources": dict(resources)}
            self.router = self.router.with_data(self._data)

    def start(self) -> None:
        """Find and start the encoder now, so that the first message does not wait for it. No cache is asked."""
        written, read = self._reading(WARM_UP)
        written.work_out()  # no encoder may have read it
        self.router.warm()
        read_emotion(WARM_UP, split_words(WARM_UP), read.topic if read is not None else None)

    @property
    def method(self) -> str:
        """By what messages are compared: looks for the encoder."""
        return KEYWORDS if self._found() is None else ENCODER

    @property
    def data(self) -> dict[str, Any]:
        """The routing data, with the vectors of the encoder there is."""
        self._found()
        return self._data

    @property
    def note(self) -> str:
        """Why messages are routed by keywords, where they are."""
        return self.reader.note

    @property
    def encoder_pid(self) -> int | None:
        """The process of the encoder; None where none runs."""
        return self.reader.pid

    def _found(self) -> Encoder | None:
        """The encoder; its vectors are in the data from then on."""
        with self.reader.held():
            encoder = self.reader.encoder()
            if encoder is None or self._ready:
                return encoder
            self._ready = True
            try:
                ready = _made_ready(self._data, encoder)
            except TaraError as error:
                self.reader.do_without(error)
                return None
            if ready is not self._data:
                self._data = ready
                self.router = self.router.with_data(ready)
            return encoder

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains messages are routed among."""
        return self.router.domains

    @property
    def weights(self) -> dict[str, float]:
        """The configured weights of the four terms."""
        return self.router.weights

    @property
    def read_emotion(self) -> EmotionReader:
        """What reads a message's emotion; may be replaced."""
        return self.router.read_emotion

    @read_emotion.setter
    def read_emotion(self, reader: EmotionReader) -> None:
        self.router.read_emotion = reader

    def embedding(self, text: str) -> Embedding | None:
        """The vector of a message as it is compared; None without an encoder, or where it fails."""
        _, read = self._reading(text)
        return read.topic if read is not None else None

    def _reading(self, text: str) -> tuple[Written, Vectors | None]:
        with self.reader.held():
            encoder = self._found()  # the router is another one from then on
            written = self.router.written(text)
            return written, self.reader.read(written) if encoder is not None else None

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
        """Where `text` goes, as `Router.route`. `previous` is the message before, `seconds` how long ago it was.

        `crisis_before` is the `crisis` of the decision before. What was read of a crisis is not kept.
        """
        with self.reader.held():
            earlier = self._reading(previous)[1] if previous is not None else None
            written, read = self._reading(text)
            router = self.router
        before = None
        if previous is not None:
            before = Before(previous, seconds, earlier.topic if earlier is not None else None)
        embedding = read.topic if read is not None else None
        decision = router.route(
            written,
            previous_domain,
            resident,
            weights=weights,
            past=past,
            embedding=embedding,
            before=before,
            unavailable=self.unavailable if unavailable is None else unavailable,
            crisis_vectors=read.crisis if read is not None else None,
            crisis_before=crisis_before,
        )
        if decision.crisis is not None:
            self.reader.forget(written.plain)
        if crisis_before is not None and previous is not None:
            self.reader.forget(normalise(previous))
        return replace(decision, note=self.note) if embedding is None and self.note else decision

    def close(self) -> None:
        """End the encoder's process, now or after the message it reads; a later message starts it again."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def _made_ready(data: dict[str, Any], encoder: Encoder) -> dict[str, Any]:
    """The data with vectors of this encoder. Raises EncoderError."""
    vectors = data["vectors"]
    if vectors is not None and vectors["encoder"] == encoder.identity:
        return data
    if not all(entry["about"] for entry in data["domains"].values()):
        raise EncoderError("the release is of a version without texts to compare with", "build and deploy it again")
    from core.encoder.remembered import RememberingEncoder
    from core.routing.prepare import with_vectors

    return with_vectors(data, RememberingEncoder(encoder))
