"""What the encoder's process and its client say to each other: a line of ASCII JSON a message.

`{"load": path, "threads": n}`, once → `{"ready": {"dimension": d, "context_length": t, "reads": by
what}}`; then `{"texts": […]}` → `{"vectors": base64 of float32, little-endian, one row a text}`. With `"adapters":
[path or null, …]` there is a row for each of them, for each text. Either may be answered with `{"error": text}`.
"""

import json
from typing import Any

from core.errors import TaraError


class EncoderError(TaraError):
    """The sentence encoder could not do what was asked; messages can still be routed by keywords."""


def encode(message: dict[str, Any]) -> bytes:
    """One message as one line, newline included."""
    return json.dumps(message).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message. Raises EncoderError for anything else."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise EncoderError(f"a line of the encoder's protocol cannot be read: {line[:80]!r}")
    return message
