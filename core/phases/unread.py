"""What packaging a phase has to read with the sentence encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.catalog.examples import read_example_messages
from core.encoder.client import Encoder
from core.encoder.remembered import RememberingEncoder
from core.routing.rows import MOST_SAID


def unread(params: Mapping[str, Any], examples: Mapping[str, Path]) -> list[str]:
    """The example messages of the job's domains, and those of none, that its encoder has not read before: about half
    of what it reads, which is also titles, keywords and some messages of other domains. `params` are those of
    `package`, `examples` the files. Raises InvalidInput for a file that cannot be used."""
    if params["encoder"] is None:
        return []
    messages, general = read_example_messages(examples)
    own = [text for name in params["domains"] for text in messages.get(name, ())[:MOST_SAID]]
    return RememberingEncoder(Encoder(Path(params["encoder"]))).unknown([*own, *general])
