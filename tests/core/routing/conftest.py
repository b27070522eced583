"""Routing data of the five phase-1 domains, built from what ships: the catalog and the starter data's prompts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.catalog import load_catalog
from core.catalog.examples import example_files, read_example_messages
from core.encoder import Encoder, find_encoder
from core.routing import Desk, Router, build_routing_data
from core.workspace import Workspace

REPOSITORY = Path(__file__).parents[3]
PHASE_1 = ("business", "creative", "education", "healthcare", "leadership")


def starter_prompts(domain: str) -> list[str]:
    """What people write in a domain's starter data."""
    lines = (REPOSITORY / "configs" / "starter_data" / f"{domain}.jsonl").read_text("utf-8").splitlines()
    return [m["content"] for line in lines if line for m in json.loads(line)["messages"] if m["role"] == "user"]


@pytest.fixture(scope="session")
def catalog() -> Any:
    return load_catalog(Workspace(REPOSITORY))


@pytest.fixture(scope="session")
def built(catalog: Any) -> dict[str, Any]:
    """Routing data as a package job makes it, nothing measured."""
    return build_routing_data(
        [catalog.domains[name] for name in PHASE_1],
        {name: starter_prompts(name) for name in PHASE_1},
        {},
        {**catalog.settings.routing_dict(), "crisis": catalog.settings.crisis_dict()},
    )


@pytest.fixture
def data(built: dict[str, Any]) -> dict[str, Any]:
    """A copy to change."""
    copy: dict[str, Any] = json.loads(json.dumps(built))
    return copy


@pytest.fixture(scope="session")
def router(built: dict[str, Any]) -> Router:
    return Router.from_data(built)


SMALL = ("education", "healthcare", "leadership")
FEW = 14  # examples of each that the tests read: an encoder on one core takes some milliseconds a text


@pytest.fixture(scope="session")
def encoder() -> Iterator[Encoder]:
    """The installed sentence encoder, running."""
    file = find_encoder()
    assert file is not None, "TARA_ENCODER switches the encoder off"
    with Encoder(file) as running:
        yield running


@pytest.fixture(scope="session")
def small(catalog: Any, encoder: Encoder) -> dict[str, Any]:
    """Routing data of three domains with few examples each, and the encoder's vectors."""
    examples, general = read_example_messages(example_files(Workspace(REPOSITORY)))
    few = {name: examples[name][:FEW] for name in (*SMALL, "automobile", "travel_tourism")}
    return build_routing_data(
        [catalog.domains[name] for name in SMALL],
        {},
        {},
        {**catalog.settings.routing_dict(), "crisis": catalog.settings.crisis_dict()},
        examples=few,
        general=general[:40],
        encoder=encoder,
    )


@pytest.fixture(scope="session")
def desk(small: dict[str, Any]) -> Iterator[Desk]:
    """A desk for the small set."""
    with Desk(small) as open_desk:
        yield open_desk
