"""A new domain for the catalogue, known by a description and keywords or by what people say to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.catalog.edit import add_domain_entry
from core.catalog.examples import example_files, read_example_messages, read_given, write_messages
from core.catalog.model import Domain
from core.errors import InvalidInput
from core.files import write_atomically
from core.routing.introduced import described_by, telling_words
from core.workspace import Workspace


@dataclass(frozen=True)
class Introduced:
    """The domain as it stands in the catalogue, and how many example messages it is known by."""

    domain: Domain
    examples: int

    def line(self) -> str:
        """It with what can be done next."""
        name = self.domain.name
        return (
            f"{name} is in the catalogue; next: tara route --domains all TEXT, tara add-domain N {name}, or "
            f"train-domain {name}"
        )


def introduce_domain(
    workspace: Workspace,
    name: str,
    *,
    description: str | None = None,
    keywords: Sequence[str] | None = None,
    examples: Path | None = None,
    group: str = "other",
    safety_tier: str = "standard",
    system_prompt: str | None = None,
    base: str | None = None,
) -> Introduced:
    """Add a domain to the catalogue; messages are routed to it and it can be trained at once.

    With `examples`, description and keywords may be left out: they are taken from the examples. Training data is copied
    to data/NAME.jsonl or .json; messages, which the router compares with, to configs/examples/NAME.txt. Raises
    InvalidInput, with nothing changed, for a name that is taken and files that cannot be used.
    """
    given = _given(examples.expanduser().resolve()) if examples is not None else None
    if given is None and (description is None or keywords is None):
        raise InvalidInput(
            "a domain needs a description and keywords, or examples to take them from",
            "--description and --keywords, or --examples",
        )
    if given is not None and given.training:
        for taken in (workspace.data / f"{name}.jsonl", workspace.data / f"{name}.json"):
            if taken.exists():
                raise InvalidInput(f"{taken} exists already", "move it away, or leave out --examples")
    if description is None and given is not None:
        description = described_by(given.messages)
    assert description is not None
    words = list(keywords or ())
    if given is not None and keywords is None:
        others, general = read_example_messages(example_files(workspace))
        told = [text for other, texts in others.items() if other != name for text in texts]
        words = telling_words(given.messages, [*told, *general]) or [name.replace("_", " ")]
    entry = add_domain_entry(
        workspace,
        name,
        description,
        words,
        group=group,
        safety_tier=safety_tier,
        system_prompt=system_prompt,
        base=base,
    )
    if given is not None and given.training:
        workspace.data.mkdir(exist_ok=True)
        write_atomically(workspace.data / f"{entry.name}{given.path.suffix}", given.path.read_bytes())
    elif given is not None:
        write_messages(workspace, entry.name, given.messages)
    return Introduced(entry, len(given.messages) if given is not None else 0)


@dataclass(frozen=True)
class _Given:
    """A file of examples: its messages, and whether it is training data, with answers."""

    path: Path
    messages: list[str]
    training: bool


def _given(path: Path) -> _Given:
    from core.training.data import read_examples

    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    if path.suffix != ".txt":
        try:
            examples = read_examples(path)
            said = [one["content"] for each in examples for one in each.messages if one["role"] == "user"]
            return _Given(path, said, True)
        except InvalidInput:
            if not _only_messages(path):
                raise
    messages = read_given(path)
    if not messages:
        raise InvalidInput(f"{path} holds no message", "a message a line")
    return _Given(path, messages, False)


def _only_messages(path: Path) -> bool:
    """Whether a file is JSON lines of `text` and not meant to be training data."""
    try:
        first = next((line for line in path.read_text("utf-8-sig").splitlines() if line.strip()), "")
        found = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "text" in found
