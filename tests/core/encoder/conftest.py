"""The installed encoder, one process of it for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.encoder import Encoder, find_encoder


@pytest.fixture(scope="session")
def encoder_file() -> Path:
    """The shipped encoder's file, as set-up made it."""
    found = find_encoder()
    assert found is not None, "TARA_ENCODER switches the encoder off"
    return found


@pytest.fixture(scope="session")
def encoder(encoder_file: Path) -> Iterator[Encoder]:
    """A running encoder."""
    with Encoder(encoder_file) as running:
        yield running
