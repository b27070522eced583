"""The router together with an encoder: reads a message once, and decides by keywords where the encoder fails."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.encoder.client import Encoder, EncoderError
from core.encoder.place import find_encoder
from core.errors import TaraError
from core.routing.conversation import Before
from core.routing.data import load_routing_data, validate
from core.routing.emotion import Emotion
from core.routing.past import Past
from core.routing.router import Decision, Router
from core.routing.vectors import Embedding
from core.routing.words import Word

MOST_READ = 64  # messages whose vectors are kept
log = logging.getLogger(__name__)


class Desk:
    """Routes messages as `Router` does, with the vectors of an encoder it holds. Close it, or use it in a `with`.

    `note` says why there is no encoder, where there is none. For one thread at a time.
    """

    def __init__(self, router: Router, encoder: Encoder | None, note: str = "") -> None:
        self.router = router
        self.encoder = encoder
        self.note = note
        self._read: OrderedDict[str, Embedding] = OrderedDict()

    @classmethod
    def open(cls, path: Path, setting: str = "", root: Path | None = None) -> "Desk":
        """A desk for a `routing.json`; `setting` is `routing.encoder` of the workspace at `root`. Raises InvalidInput
        for a file that cannot be routed with; an encoder that cannot be used is said in `note`."""
        return cls.of_data(load_routing_data(path), setting, root, str(path))

    @classmethod
    def of_data(
        cls, data: dict[str, Any], setting: str = "", root: Path | None = None, source: str = "routing data"
    ) -> "Desk":
        """A desk for routing data. Where the data's vectors are of another encoder, or it has none, its texts are read
        with the one there is, once."""
        data = validate(data, source)
        try:
            path = find_encoder(setting, root)
            if path is None:
                return cls(Router(data), None, "the encoder is switched off")
            encoder = Encoder(path)
            return cls(Router(_made_ready(data, encoder)), encoder)
        except TaraError as error:
            log.warning("messages are routed by keywords: %s", error.one_line())
            return cls(Router(data), None, error.one_line())

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains messages are routed among."""
        return self.router.domains

    @property
    def weights(self) -> dict[str, float]:
        """The configured weights of the four terms."""
        return self.router.weights

    @property
    def read_emotion(self) -> Callable[[str, list[Word]], Emotion]:
        """What reads a message's emotion; may be replaced."""
        return self.router.read_emotion

    @read_emotion.setter
    def read_emotion(self, reader: Callable[[str, list[Word]], Emotion]) -> None:
        self.router.read_emotion = reader

    @property
    def emotion_method(self) -> str:
        """What `read_emotion` is, with its version."""
        return self.router.emotion_method

    @emotion_method.setter
    def emotion_method(self, name: str) -> None:
        self.router.emotion_method = name

    def start(self) -> None:
        """Start the encoder now, so that the first message does not wait for it; failing is noticed at that message."""
        self.router.speller.warm()
        if self.encoder is not None:
            self.embedding(" ")

    def embedding(self, text: str) -> Embedding | None:
        """The vector of a message as it is compared; None without an encoder, or where it fails."""
        if self.encoder is None:
            return None
        readable = self.router.readable(text)
        if readable in self._read:
            self._read.move_to_end(readable)
            return self._read[readable]
        try:
            found = Embedding(self.encoder.embed([readable])[0], self.encoder.identity)
        except EncoderError as error:
            log.warning("a message is routed by keywords: %s", error.one_line())
            self.note = error.one_line()
            return None
        self._read[readable] = found
        while len(self._read) > MOST_READ:
            self._read.popitem(last=False)
        return found

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
    ) -> Decision:
        """Where `text` goes, as `Router.route`. `previous` is the message before, `seconds` how long ago it was."""
        before = Before(previous, seconds, self.embedding(previous)) if previous is not None else None
        embedding = self.embedding(text)
        decision = self.router.route(
            text,
            previous_domain,
            resident,
            weights=weights,
            past=past,
            embedding=embedding,
            before=before,
            unavailable=unavailable,
        )
        return replace(decision, note=self.note) if embedding is None and self.note else decision

    def close(self) -> None:
        """End the encoder's process; a later message starts it again."""
        if self.encoder is not None:
            self.encoder.close()

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
