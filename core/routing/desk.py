"""The router together with an encoder: reads a message once, and decides by keywords where the encoder fails."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.encoder.client import Encoder, EncoderError
from core.encoder.place import find_encoder
from core.errors import TaraError
from core.routing.conversation import Before
from core.routing.crisis import Crisis
from core.routing.crisis_model import adapter_of
from core.routing.data import load_routing_data, validate
from core.routing.decision import ENCODER, KEYWORDS, Decision
from core.routing.emotion import EmotionReader
from core.routing.past import Past
from core.routing.router import Router
from core.routing.vectors import Embedding
from core.routing.words import normalise

MOST_READ = 64  # messages whose vectors are kept
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """A message as the encoder reads it: `topic` of its readable form, `crisis` of its plain one under the gate's
    adapter; without an adapter None."""

    topic: Embedding
    crisis: Sequence[float] | None


class Desk:
    """Routes messages as `Router` does, with the vectors of an encoder it holds. Close it, or use it in a `with`.

    The encoder is looked for at the first message: `setting` is `routing.encoder` of the workspace. Where the data's
    vectors are of another encoder, or it has none, its texts are read then, once. `note` says why messages are routed
    by keywords, where they are. May be used from several threads.
    """

    def __init__(self, data: dict[str, Any], setting: str = "", source: str = "routing data") -> None:
        """Raises InvalidInput for data that cannot be routed with, naming `source`."""
        self._data = validate(data, source)
        self._setting = setting
        self._encoder: Encoder | None = None
        self._looked = False
        self._read: OrderedDict[str, _Read] = OrderedDict()
        self._using = threading.RLock()
        self._closing = False
        self.router = Router(self._data)
        self.note = ""

    @classmethod
    def open(cls, path: Path, setting: str = "") -> "Desk":
        """A desk for a `routing.json`. Raises InvalidInput for a file that cannot be routed with."""
        return cls(load_routing_data(path), setting, str(path))

    def use(self, setting: str) -> None:
        """Take another encoder from now on, as `routing.encoder` names it."""
        with self._using:
            if setting != self._setting:
                self.close()
                self._setting, self._looked, self.note = setting, False, ""
                self._read.clear()

    def start(self) -> None:
        """Find and start the encoder now, so that the first message does not wait for it."""
        self.router.speller.warm()
        self.route("warm up")

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
    def encoder_pid(self) -> int | None:
        """The process of the encoder; None where none runs."""
        return self._encoder.pid if self._encoder is not None else None

    def _found(self) -> Encoder | None:
        with self._using:
            if not self._looked:
                self._looked = True
                try:
                    path = find_encoder(self._setting)
                    if path is None:
                        self.note = "the encoder is switched off"
                    else:
                        encoder = Encoder(path)
                        ready = _made_ready(self._data, encoder)
                        if ready is not self._data:
                            self._data = ready
                            self.router = self.router.with_data(ready)
                        self._encoder = encoder
                except TaraError as error:
                    log.warning("messages are routed by keywords: %s", error.one_line())
                    self.note = error.one_line()
            return self._encoder

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
        read = self._reading(text)
        return read.topic if read is not None else None

    def _reading(self, text: str) -> _Read | None:
        """Both vectors of a message, asked for at once where nothing is misspelled; None as `embedding`."""
        with self._using:
            encoder = self._found()
            if encoder is None:
                return None
            plain = normalise(text)
            if plain in self._read:
                self._read.move_to_end(plain)
                return self._read[plain]
            try:
                read = _both(encoder, plain, self.router.readable(text))
            except EncoderError as error:
                log.warning("a message is routed by keywords: %s", error.one_line())
                self.note = error.one_line()
                return None
            self.note = ""
            self._read[plain] = read
            while len(self._read) > MOST_READ:
                self._read.popitem(last=False)
            return read

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
        with self._using:
            earlier = self._reading(previous) if previous is not None else None
            read = self._reading(text)
            if self._closing:
                self._end()
        before = None
        if previous is not None:
            before = Before(previous, seconds, earlier.topic if earlier is not None else None)
        embedding = read.topic if read is not None else None
        decision = self.router.route(
            text,
            previous_domain,
            resident,
            weights=weights,
            past=past,
            embedding=embedding,
            before=before,
            unavailable=unavailable,
            crisis_vector=read.crisis if read is not None else None,
            crisis_before=crisis_before,
        )
        if decision.crisis is not None:
            self._forget(text)
        if crisis_before is not None and previous is not None:
            self._forget(previous)
        return replace(decision, note=self.note) if embedding is None and self.note else decision

    def _forget(self, text: str) -> None:
        with self._using:
            self._read.pop(normalise(text), None)

    def close(self) -> None:
        """End the encoder's process, now or after the message it reads; a later message starts it again."""
        self._closing = True
        if self._using.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._using.release()

    def _end(self) -> None:
        self._closing = False
        if self._encoder is not None:
            self._encoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def _both(encoder: Encoder, plain: str, readable: str) -> _Read:
    """The vectors for what a message is about and for the crisis gate. Raises EncoderError."""
    adapter = adapter_of(encoder.gguf)
    if adapter is None:
        return _Read(Embedding(encoder.embed([readable])[0], encoder.identity), None)
    if readable == plain:
        topic, crisis = encoder.embed_adapted([plain], [None, adapter])[0]
    else:
        topic, crisis = encoder.embed([readable])[0], encoder.embed_adapted([plain], [adapter])[0, 0]
    return _Read(Embedding(topic, encoder.identity), crisis)


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
