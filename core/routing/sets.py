"""Sets of the catalogue's domains as routing data, before anything is trained or packaged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import core
from core.catalog import Catalog, Domain
from core.catalog.examples import example_files, read_example_messages
from core.errors import TaraError
from core.files import hash_json
from core.routing.blend import shipped_blend
from core.routing.data import VERSION, build_routing_data
from core.routing.vectors import TextEncoder
from core.training.data import find_data, read_examples
from core.workspace import Workspace


@dataclass(frozen=True)
class RoutingSet:
    """What routing data of some domains is made from. `prompts` are what people say in their training data, `examples`
    messages of every domain of the catalogue, `general` such of none."""

    domains: tuple[Domain, ...]
    prompts: Mapping[str, Sequence[str]]
    examples: Mapping[str, Sequence[str]]
    general: Sequence[str]
    settings: Mapping[str, Any]

    def build(self, encoder: TextEncoder | None = None) -> dict[str, Any]:
        """The routing data; nothing is measured. Raises EncoderError where the encoder fails."""
        return build_routing_data(
            self.domains,
            self.prompts,
            {},
            self.settings,
            examples=self.examples,
            general=self.general,
            encoder=encoder,
        )

    def key(self, encoder: str | None) -> str:
        """SHA-256 of everything `build` depends on; `encoder` is its identity and by what it is read."""
        return hash_json(
            [
                core.__version__,
                VERSION,
                [asdict(domain) for domain in self.domains],
                self.prompts,
                self.examples,
                self.general,
                self.settings,
                encoder,
                shipped_blend().as_dict(),
            ]
        )


def routing_set(workspace: Workspace, catalog: Catalog, names: Iterable[str]) -> RoutingSet:
    """What there is of these domains: their entries, examples and training data. Raises InvalidInput for a name that is
    not in the catalogue, or a file of examples that cannot be used."""
    domains = tuple(catalog.domain(name) for name in dict.fromkeys(names))
    examples, general = read_example_messages(example_files(workspace))
    return RoutingSet(
        domains,
        {domain.name: prompts_of(workspace, domain.name) for domain in domains},
        examples,
        general,
        {**catalog.settings.routing_dict(), "crisis": catalog.settings.crisis_dict()},
    )


def prompts_of(workspace: Workspace, domain: str) -> list[str]:
    """The user's words in a domain's training data; none where it has no data that can be read."""
    try:
        examples = read_examples(find_data(workspace, domain))
    except TaraError:  # no data yet, or faulty: training will say so, a message can be routed without it
        return []
    return [message["content"] for one in examples for message in one.messages if message["role"] == "user"]
