"""`tara domain`: the catalogue's domains."""

from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
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
    from core.phases.introducing import introduce_domain

    made = introduce_domain(
        workspace_of(root),
        name,
        description=description,
        keywords=None if keywords is None else [word.strip() for word in keywords.split(",") if word.strip()],
        examples=None if examples is None else Path(examples),
        group=group,
        safety_tier=safety_tier,
        system_prompt=system_prompt,
        base=base,
    )
    entry = made.domain
    if as_json:
        print_json(
            {
                "name": entry.name,
                "title": entry.title,
                "description": entry.description,
                "keywords": list(entry.keywords),
                "examples": made.examples,
            }
        )
    else:
        click.echo(made.line())
