"""Messages as vectors, of what they are about and as the crisis gate sees them; the encoder is found when needed."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.encoder.client import Encoder, EncoderError, configured_encoder
from core.errors import TaraError
from core.routing.crisis import in_doubt
from core.routing.crisis_model import CrisisVectors, adapter_of
from core.routing.vectors import Embedding
from core.routing.written import Written

MOST_READ = 64  # messages whose vectors are kept
WARM_UP = "warm up"  # what is read so that the first message does not wait
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vectors:
    """A message as the encoder reads it: `topic` of its readable form; `crisis` the plain vector and that under the
    gate's adapter, where there was a doubt, of what was written; None with an encoder that the gate has no adapter for.
    """

    topic: Embedding
    crisis: CrisisVectors | None


class MessageReader:
    """Reads each message once. `setting` is `routing.encoder` of the workspace; close it when done. Of any thread.

    The encoder is looked for at the first message; `note` says why there are no vectors, where there are none.
    """

    def __init__(self, setting: str = "") -> None:
        self._setting = setting
        self._encoder: Encoder | None = None
        self._looked = False
        self._kept: OrderedDict[str, Vectors] = OrderedDict()
        self._using = threading.RLock()
        self._held = 0  # how deep, by the thread that holds it
        self._closing = False
        self.note = ""

    @property
    def pid(self) -> int | None:
        """The process of the encoder; None where none runs."""
        return self._encoder.pid if self._encoder is not None else None

    def use(self, setting: str) -> bool:
        """Take the encoder that `routing.encoder` names from now on; whether that is another."""
        with self._using:
            if setting == self._setting:
                return False
            self._end()
            self._setting, self._looked, self._encoder, self.note = setting, False, None, ""
            self._kept.clear()
            return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """While what is read now is read: `close` from another thread ends the encoder only after it."""
        try:
            with self._using:
                self._held += 1
                try:
                    yield
                finally:
                    self._held -= 1
        finally:
            if self._closing and not self._held:
                self.close()

    def encoder(self) -> Encoder | None:
        """The encoder, looked for once; None where there is none."""
        with self._using:
            if not self._looked:
                self._looked = True
                try:
                    self._encoder = configured_encoder(self._setting)
                    self.note = "the encoder is switched off" if self._encoder is None else ""
                except TaraError as error:
                    self.do_without(error)
            return self._encoder

    def do_without(self, error: TaraError) -> None:
        """Use no encoder, because of this error, until another one is set."""
        log.warning("messages are read by their words alone: %s", error.one_line())
        with self._using:
            self._end()
            self._encoder, self.note = None, error.one_line()

    def read(self, written: Written) -> Vectors | None:
        """The vectors of a message, whose words are worked out meanwhile. The gate's adapter, a second reading, is
        asked where there is doubt (`crisis.in_doubt`). None without an encoder, or where it fails."""
        plain = written.plain
        with self.held():
            try:
                encoder = self.encoder()
                if encoder is None:
                    return None
                if plain in self._kept:
                    self._kept.move_to_end(plain)
                    return self._kept[plain]
                vectors = _vectors(encoder, written)
            except EncoderError as error:
                log.warning("a message is read by its words alone: %s", error.one_line())
                self.note = error.one_line()
                return None
            self.note = ""
            self._kept[plain] = vectors
            while len(self._kept) > MOST_READ:
                self._kept.popitem(last=False)
            return vectors

    def forget(self, plain: str) -> None:
        """Keep nothing of a message."""
        with self._using:
            self._kept.pop(plain, None)

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


def _vectors(encoder: Encoder, written: Written) -> Vectors:
    """Raises EncoderError."""
    adapter = adapter_of(encoder.gguf)
    topic = encoder.embed([written.readable], meanwhile=written.work_out)[0]
    embedding, plain = Embedding(topic, encoder.identity), written.plain
    if adapter is None:
        return Vectors(embedding, None)
    if not in_doubt(written.crisis, topic, corrected=written.corrected):
        return Vectors(embedding, (topic, None))
    if not written.corrected:
        return Vectors(embedding, (topic, encoder.embed_adapted([plain], [adapter])[0, 0]))
    # The gate reads what was written: its training knows misspelled words, and a wrong correction misleads it.
    as_written, adapted = encoder.embed_adapted([plain], [None, adapter])[0]
    return Vectors(embedding, (as_written, adapted))
