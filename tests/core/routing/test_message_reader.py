"""The reader of messages: closed by another thread in the middle of a message, it leaves no process behind."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.encoder import Encoder
from core.routing.message_reader import MOST_READ, MessageReader
from core.routing.written import Written
from tests.core.runner.watch import gone


@pytest.fixture
def reader() -> Iterator[MessageReader]:
    made = MessageReader()
    yield made
    made.close()


@pytest.fixture
def halfway(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The encoder stands in the middle of a message from the first event to the second."""
    stands, goes_on = threading.Event(), threading.Event()
    read = Encoder.embed

    def slowly(self: Encoder, texts: Any, meanwhile: Any = None) -> Any:
        vectors = read(self, texts, meanwhile)
        stands.set()
        assert goes_on.wait(30)
        return vectors

    monkeypatch.setattr(Encoder, "embed", slowly)
    return stands, goes_on


@pytest.mark.parametrize("fails", [False, True])
def test_closed_in_the_middle_of_a_message_it_ends_its_process_after_it(
    reader: MessageReader, halfway: tuple[threading.Event, threading.Event], fails: bool
) -> None:
    stands, goes_on = halfway
    seen: list[Any] = []

    def read() -> None:
        try:
            with reader.held():
                seen.append(reader.read(Written("how are you")))
                seen.append(reader.pid)
                assert not fails
        except AssertionError as error:
            seen.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    assert stands.wait(60)
    reader.close()
    goes_on.set()
    reading.join(60)
    assert seen[0] is not None
    assert len(seen) == 2 + fails
    assert gone(seen[1])
    assert reader.pid is None


def test_it_keeps_a_bounded_number_of_messages_and_forgets_on_request(reader: MessageReader) -> None:
    for number in range(MOST_READ + 1):
        assert reader.read(Written(f"message {number}")) is not None
    assert len(reader._kept) == MOST_READ
    assert "message 0" not in reader._kept
    reader.forget(f"message {MOST_READ}")
    assert len(reader._kept) == MOST_READ - 1


def test_another_encoder_takes_the_place_of_the_first(reader: MessageReader) -> None:
    assert reader.use("") is False
    assert reader.read(Written("hello")) is not None
    first = reader.pid
    assert first is not None
    assert reader.use("none") is True
    assert gone(first)
    assert reader.read(Written("hello")) is None
    assert reader.note == "the encoder is switched off"
