"""Sets of the catalogue's domains as routing data, before anything is trained or packaged."""

from collections.abc import Iterable
from typing import Any

from core.catalog import Catalog
from core.catalog.examples import read_example_messages, read_outside
from core.errors import TaraError
from core.routing.data import build_routing_data
from core.routing.vectors import TextEncoder
from core.training.data import find_data, read_examples
from core.workspace import Workspace


def routing_data_of(
    workspace: Workspace, catalog: Catalog, names: Iterable[str], encoder: TextEncoder | None = None
) -> dict[str, Any]:
    """Routing data of some domains of the catalogue, from their entries, their examples and what there is of training
    data; nothing is measured. Raises InvalidInput for an unknown name or a file that cannot be used, EncoderError."""
    domains = [catalog.domain(name) for name in dict.fromkeys(names)]
    settings = {**catalog.settings.routing_dict(), "crisis": catalog.settings.crisis_dict()}
    return build_routing_data(
        domains,
        {domain.name: prompts_of(workspace, domain.name) for domain in domains},
        {},
        settings,
        examples=read_example_messages(workspace),
        general=read_outside(workspace),
        encoder=encoder,
    )


def prompts_of(workspace: Workspace, domain: str) -> list[str]:
    """The user's words in a domain's training data; none where it has no data that can be read."""
    try:
        examples = read_examples(find_data(workspace, domain))
    except TaraError:  # no data yet, or faulty: training will say so, a message can be routed without it
        return []
    return [message["content"] for one in examples for message in one.messages if message["role"] == "user"]
