"""The crisis gate with an encoder of its own, for whoever routes nothing."""

import logging
import threading
from collections.abc import Sequence

from core.encoder.client import Encoder
from core.encoder.place import find_encoder
from core.errors import TaraError
from core.routing.crisis import Crisis, find_crisis
from core.routing.crisis_model import adapter_of

log = logging.getLogger(__name__)


class CrisisReader:
    """Finds crises as `core.routing.Desk` does. `setting` is `routing.encoder`; close it when done. Of any thread.

    The encoder is looked for at the first message. Without the shipped one, or where it fails, the gate works by
    expressions and letters, and `note` says why.
    """

    def __init__(self, setting: str = "") -> None:
        self._setting = setting
        self._encoder: Encoder | None = None
        self._looked = False
        self._using = threading.Lock()
        self.note = ""

    def use(self, setting: str) -> None:
        """Take the encoder that `routing.encoder` names from now on."""
        with self._using:
            if setting != self._setting:
                self._end()
                self._setting, self._looked, self._encoder = setting, False, None

    def find(self, plain: str, crisis_before: Crisis | None = None) -> Crisis | None:
        """As `find_crisis`, of a text that `words.normalise` has been through. Nothing is kept of it."""
        with self._using:
            vector = self._vector(plain)
        return find_crisis(plain, vector, crisis_before)

    def _vector(self, plain: str) -> Sequence[float] | None:
        try:
            if not self._looked:
                self._looked = True
                path = find_encoder(self._setting)
                self._encoder = Encoder(path) if path is not None else None
            adapter = adapter_of(self._encoder.gguf) if self._encoder is not None else None
            if self._encoder is None or adapter is None:
                self.note = "no encoder that the crisis gate knows"
                return None
            row: Sequence[float] = self._encoder.embed_adapted([plain], [adapter])[0, 0]
        except TaraError as error:
            log.warning("the crisis gate goes without the encoder: %s", error.one_line())
            self.note = error.one_line()
            return None
        self.note = ""
        return row

    def close(self) -> None:
        """End the encoder's process; a later message starts it again."""
        with self._using:
            self._end()

    def _end(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
