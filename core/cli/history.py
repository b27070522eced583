"""`tara history`: what is remembered of a person, shown and erased."""

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput, Refused
from core.text import clean

user_option = click.option("--user", metavar="NAME", help="Whose (default: the system's user name).")


@click.group("history", invoke_without_command=True)
@user_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Newest turns shown.")
@root_option
@json_option
@click.pass_context
def history(context: click.Context, user: str | None, limit: int, root: str | None, as_json: bool) -> None:
    """Show a person's chat history and what it says to the router. It lies in state.db and nowhere else."""
    from core.catalog.loading import load_settings
    from core.chat.history import history_of, user_named

    if context.invoked_subcommand is not None:
        context.obj = {"user": user, "root": root, "json": as_json}
        return
    workspace = workspace_of(root)
    found = history_of(workspace, user_named(user), load_settings(workspace).history_half_life_h, limit)
    if as_json:
        print_json(found.as_json())
        return
    click.echo("\n".join(clean(line) for line in found.lines()))


@history.command("erase")
@user_option
@click.option("--all", "everybody", is_flag=True, help="Everybody's, and turns of nobody in particular.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@root_option
@json_option
@click.pass_context
def erase_history(
    context: click.Context, user: str | None, everybody: bool, yes: bool, root: str | None, as_json: bool
) -> None:
    """Delete a person's chat turns, texts included. They cannot be brought back."""
    from core.chat.history import erase, user_named
    from core.store.reads import open_reader

    user, root = user or context.obj["user"], root or context.obj["root"]
    as_json = as_json or context.obj["json"]
    if everybody and user is not None:
        raise InvalidInput("give --user or --all, not both")
    workspace = workspace_of(root)
    name = None if everybody else user_named(user)
    with open_reader(workspace) as reader:
        there = reader.users()
    if name is not None and name not in there:
        known = ", ".join(there) or "nobody"
        raise Refused(f"there is no history of {name} (there is of: {known})", "tara history --user NAME shows one")
    whose = f"the history of {name} ({there[name]} turns)" if name is not None else "everybody's history"
    if not yes:
        click.confirm(f"Erase {clean(whose)}?", abort=True, err=True)
    count = erase(workspace, name)
    if as_json:
        print_json({"user": name, "erased": count})
    else:
        click.echo(f"{count} turns erased")
