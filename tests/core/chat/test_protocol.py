"""The lines between a conversation and its engines."""

import json

import pytest

from core.chat.protocol import (
    Ask,
    Cancel,
    EngineError,
    Event,
    Failed,
    Finished,
    Judge,
    Judged,
    Load,
    Piece,
    Ready,
    Request,
    decode_event,
    decode_request,
    encode,
)
from tests.core.chat.conftest import GREEDY


@pytest.mark.parametrize(
    "request_",
    [
        Load("/a b/c.gguf", 512, 2),
        Ask(3, [{"role": "user", "content": "a\nb 😀"}], None, None, GREEDY),
        Ask(3, [{"role": "user", "content": "a"}], "b", "c", GREEDY, [1, 2], 512),
        Judge(4, [{"role": "user", "content": "a"}], "b"),
        Cancel(3),
    ],
)
def test_requests_survive_the_protocol(request_: Request) -> None:
    line = encode(request_)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    "event",
    [
        Ready(0.5, 512),
        Piece(1, "\u2028\x1b[31m\n"),
        Piece(1, "b", [3, 4]),
        Finished(1, "a", 2, 3, None, 0.1, "eos"),
        Finished(1, "a", 2, 3, 4.5, 0.1, "stop", 2, 0.01, 64, [5, 6]),
        Judged(1, -0.5, -1.5, 9),
        Failed(None, "no", "do this"),
    ],
)
def test_events_survive_the_protocol(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


@pytest.mark.parametrize(
    "line", [b"", b"[]\n", b"{}\n", b'{"type": "Load"}\n', b'{"type": "Nothing"}\n', b"\xff\n", b'{"type": ["x"]}\n',
             json.dumps({"type": "Cancel", "id": 1, "more": 2}).encode()],
)  # fmt: skip
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(EngineError):
        decode_request(line)
