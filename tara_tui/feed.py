"""The threads that watch: one owns the store's reader, one measures the machine. They touch no widget."""

import logging
import threading
from dataclasses import replace
from typing import Protocol

from textual.message import Message

from core.errors import TaraError
from core.store.views import Snapshot
from tara_tui.backend import Backend, SnapshotReader
from tara_tui.messages import MetersSampled, SnapshotArrived, StoreFailed
from tara_tui.meters import Machine, Meters

POLL_S = 0.5
FULL_READ_S = 5.0  # also read this often: a runner that died wrote nothing
SAMPLE_S = 2.0
JOBS = 200
log = logging.getLogger("tara.console")


class Receiver(Protocol):
    """Where facts go."""

    def post_message(self, message: Message) -> bool:
        """Take a message from any thread."""


def watch_store(backend: Backend, receiver: Receiver, stop: threading.Event, look: threading.Event) -> None:
    """Read the store whenever it moves and post what differs, until told to stop. Faults are told and outlived.

    `look` is set by whoever wants it read at once: with `stop`, or when a wish was carried out.
    """
    reader: SnapshotReader | None = None
    shown: Snapshot | None = None
    trouble = ""
    waited = FULL_READ_S
    while not stop.is_set():
        try:
            reader = reader or backend.open_reader()
            if reader.changed() or waited >= FULL_READ_S or trouble:
                waited = 0.0
                found = reader.snapshot(jobs=JOBS)
                if shown is None or trouble or replace(found, taken_at=shown.taken_at) != shown:
                    shown = found
                    receiver.post_message(SnapshotArrived(found))
                trouble = ""
        except Exception as error:
            line = error.one_line() if isinstance(error, TaraError) else f"{type(error).__name__}: {error}"
            if line != trouble:
                log.exception("reading the store failed")
                receiver.post_message(StoreFailed(line))
            trouble = line
            if reader is not None:
                reader.close()
                reader = None
        look.wait(POLL_S)
        look.clear()
        waited += POLL_S
    if reader is not None:
        reader.close()


def watch_machine(backend: Backend, receiver: Receiver, stop: threading.Event) -> None:
    """Measure the machine and post what differs, until told to stop."""
    stop.wait(0.3)  # the first paint goes before
    machine = Machine(backend.root)
    shown: Meters | None = None
    while not stop.is_set():
        try:
            meters = machine.sample()
        except OSError:
            log.exception("the machine could not be measured")
            return
        if meters != shown:
            shown = meters
            receiver.post_message(MetersSampled(meters))
        stop.wait(SAMPLE_S)
