"""`tara service`: the runner started with the machine."""

from dataclasses import asdict

import click

from core.cli.common import json_option, print_json, root_option, workspace_of


@click.group("service")
def service() -> None:
    """Start the runner with the machine, so that a restart resumes what it broke off."""


@service.command("install")
@root_option
@json_option
def install(root: str | None, as_json: bool) -> None:
    """Install a systemd user unit, or a cron line where there is no systemd."""
    from core.runner import service as services

    _show(services.install(workspace_of(root)), as_json)


@service.command("status")
@root_option
@json_option
def status(root: str | None, as_json: bool) -> None:
    """What is installed, and what would survive a restart and a logout."""
    from core.runner import service as services

    _show(services.status(workspace_of(root)), as_json)


@service.command("remove")
@root_option
@json_option
def remove(root: str | None, as_json: bool) -> None:
    """Undo the installation; a runner that lives goes on."""
    from core.runner import service as services

    removed = services.remove(workspace_of(root))
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo("removed" if removed else "nothing was installed")


def _show(found, as_json: bool) -> None:  # type: ignore[no-untyped-def]  # a ServiceStatus, imported when needed
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"installed: {found.kind} ({found.where})" if found.kind else "installed: nothing")
    click.echo(f"after a restart: {found.after_reboot}")
    click.echo(f"after a logout: {found.after_logout}")
