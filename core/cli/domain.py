"""`tara domain`: the catalogue's domains."""

from dataclasses import dataclass
from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput
from core.text import table


@click.group("domain")
def domain() -> None:
    """Show the catalogue's domains, and add one."""


@domain.command("list")
@root_option
@json_option
def list_domains(root: str | None, as_json: bool) -> None:
    """All domains of the catalogue: group, planned phase, base now and planned, and whether there is data."""
    from core.catalog import load_catalog
    from core.errors import TaraError
    from core.training.data import find_data

    workspace = workspace_of(root)
    catalog = load_catalog(workspace)
    rows = []
    for name, entry in catalog.domains.items():
        try:
            data = workspace.relative(find_data(workspace, name))
        except TaraError:
            data = ""
        mapped = catalog.mapping[name]
        rows.append((name, entry.group, entry.phase, mapped.current, mapped.planned, data))
    headers = ("name", "group", "phase", "base", "planned", "data")
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        click.echo(table(headers, [["" if cell is None else cell for cell in row] for row in rows]))


@domain.command("add")
@click.argument("name")
@click.option("--description", metavar="TEXT", help="One sentence: what it is for.")
@click.option("--keywords", metavar="A,B,…", help="Words people use for it, separated by commas.")
@click.option("--system-prompt", metavar="TEXT", help="Put before every training example and chat.")
@click.option("--base", metavar="NAME", help="Generic name of its base (default: the one most domains are on).")
@click.option("--group", default="other", show_default=True, metavar="NAME")
@click.option(
    "--safety-tier", default="standard", show_default=True, metavar="NAME", help="standard, elevated, critical."
)
@click.option(
    "--examples", metavar="FILE", help="Training data, or messages: a line each in .txt, or JSON lines of `text`."
)
@root_option
@json_option
def add(
    name: str,
    description: str | None,
    keywords: str | None,
    system_prompt: str | None,
    base: str | None,
    group: str,
    safety_tier: str,
    examples: str | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Add a domain NAME to the catalogue; messages are routed to it and it can be trained at once.

    With --examples, description and keywords may be left out: they are taken from the examples. Training data is copied
    to data/NAME.jsonl or .json; messages, which the router compares with, to configs/examples/NAME.txt.
    """
    from core.catalog.edit import add_domain_entry
    from core.catalog.examples import example_files, read_example_messages, write_messages
    from core.files import write_atomically
    from core.routing.introduced import described_by, telling_words

    workspace = workspace_of(root)
    given = _given(Path(examples).expanduser().resolve()) if examples is not None else None
    if given is None and (description is None or keywords is None):
        raise InvalidInput("a domain needs --description and --keywords, or --examples to take them from")
    if given is not None and given.training:
        for taken in (workspace.data / f"{name}.jsonl", workspace.data / f"{name}.json"):
            if taken.exists():
                raise InvalidInput(f"{taken} exists already", "move it away, or leave out --examples")
    if description is None and given is not None:
        description = described_by(given.messages)
    assert description is not None
    words = [word.strip() for word in (keywords or "").split(",") if word.strip()]
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
    if as_json:
        print_json(
            {
                "name": entry.name,
                "title": entry.title,
                "description": entry.description,
                "keywords": list(entry.keywords),
                "examples": len(given.messages) if given is not None else 0,
            }
        )
    else:
        click.echo(
            f"{entry.name} is in the catalogue; next: tara route --domains all TEXT, "
            f"tara add-domain N {entry.name}, or train-domain {entry.name}"
        )


@dataclass(frozen=True)
class _Given:
    """A file of examples: its messages, and whether it is training data, with answers."""

    path: Path
    messages: list[str]
    training: bool


def _given(path: Path) -> _Given:
    from core.catalog.examples import read_given
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
    import json

    try:
        first = next((line for line in path.read_text("utf-8-sig").splitlines() if line.strip()), "")
        found = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "text" in found
