"""The command group: which command lies in which module, and how an error becomes a line and an exit status."""

import errno
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from core.errors import ExitCode, TaraError
from core.text import clean

COMMANDS = {
    "init": "core.cli.init:init",
    "quickstart": "core.cli.quickstart:quickstart",
    "console": "core.cli.console:console",
    "domain": "core.cli.domain:domain",
    "create-phase": "core.cli.phases:create_phase",
    "add-domain": "core.cli.phases:add_domain",
    "remove-domain": "core.cli.phases:remove_domain",
    "train-domain": "core.cli.build:train_domain",
    "build-phase": "core.cli.build:build_phase",
    "plan": "core.cli.plan:plan",
    "recommend": "core.cli.recommend:recommend",
    "export-domain": "core.cli.build:export_domain",
    "measure": "core.cli.compare:measure",
    "compare": "core.cli.compare:compare",
    "deploy-phase": "core.cli.build:deploy_phase",
    "rollback": "core.cli.phases:rollback",
    "update-domain": "core.cli.phases:update_domain",
    "list-phases": "core.cli.show:list_phases",
    "show-phase": "core.cli.show:show_phase",
    "advance-phase": "core.cli.phases:advance_phase",
    "cleanup-phase": "core.cli.phases:cleanup_phase",
    "clean-model": "core.cli.models:clean_model",
    "validate": "core.cli.models:validate",
    "checkpoints": "core.cli.checkpoints:checkpoints",
    "jobs": "core.cli.jobs:jobs",
    "runner": "core.cli.runner:runner",
    "service": "core.cli.service:service",
    "chat": "core.cli.talk:chat",
    "history": "core.cli.history:history",
    "smoke": "core.cli.smoke:smoke",
    "route": "core.cli.route:route",
    "encoder": "core.cli.encoder:encoder",
    "doctor": "core.cli.doctor:doctor",
    "completion": "core.cli.completion:completion",
}
SHORT_HELP = {
    "init": "Make a workspace in a folder.",
    "quickstart": "Build, release and try the starter phase.",
    "console": "Open the console.",
    "domain": "Show the catalogue's domains, and add one.",
    "create-phase": "Make a phase with its domains.",
    "add-domain": "Put a domain into a phase.",
    "remove-domain": "Take a domain out of a phase.",
    "train-domain": "Train and evaluate a domain's adapter.",
    "build-phase": "Build what is missing of a phase, up to its bundle.",
    "plan": "Predict memory, disk and time, and check predictions.",
    "recommend": "Rank types and techniques for a model on this machine.",
    "export-domain": "Merge a domain's adapter into one GGUF.",
    "measure": "Measure a GGUF file against its F16 parent.",
    "compare": "Put artifacts and what was measured of them side by side.",
    "deploy-phase": "Release a built phase into a folder.",
    "rollback": "Switch a target back to an earlier release.",
    "update-domain": "Declare a domain's status or quality.",
    "list-phases": "Show all phases.",
    "show-phase": "Show a phase and its domains.",
    "advance-phase": "Make the next phase the current one.",
    "cleanup-phase": "Remove a phase and what only it uses.",
    "clean-model": "Copy a model or adapter without garbage, fixed and checked.",
    "validate": "Check a model, adapter, GGUF, bundle or data file.",
    "checkpoints": "Show, import and remove checkpoints of trainings.",
    "jobs": "List, show, follow, pause, cancel and retry jobs.",
    "runner": "Start, stop and show the runner.",
    "service": "Start the runner with the machine.",
    "chat": "Talk to a release, a model or an adapter.",
    "history": "Show and erase what is remembered of a person.",
    "smoke": "Ask a canned set of a phase and judge the answers.",
    "route": "Show which domain a message goes to, and why.",
    "encoder": "Show and install the router's sentence encoder.",
    "doctor": "Check this machine and workspace.",
    "completion": "Print the shell completion script.",
}


# Failures of a system call that are the machine's, or of a name given; any other is a fault of the program.
_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)


class Group(click.Group):
    """Loads a command's module when that command is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        where = COMMANDS.get(name)
        if where is None:
            return None
        module, attribute = where.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SHORT_HELP.items()))  # without loading each command's module

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line and leave with its status; what is wrong with the line itself is said in one line."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = ExitCode.USAGE
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f" — {context.command_path} --help" if context is not None else ""
            click.echo(f"tara: {clean(' '.join(error.format_message().split()))}{hint}", err=True)
            code = error.exit_code
        except click.Abort as error:  # a question that was not answered
            interrupted = isinstance(error.__context__, KeyboardInterrupt)
            click.echo("tara: not confirmed; nothing was changed", err=True)
            code = ExitCode.INTERRUPTED if interrupted else ExitCode.REFUSED
        sys.exit(int(code) if isinstance(code, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except TaraError as error:
            click.echo(f"tara: {clean(error.one_line())}", err=True)
            context.exit(int(error.exit_code))
        except KeyboardInterrupt:
            click.echo("tara: left; jobs that were started go on (tara jobs list)", err=True)
            context.exit(int(ExitCode.INTERRUPTED))
        except BrokenPipeError:
            # The reader of a pipe left: not an error of ours, and nothing more can be printed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(int(ExitCode.OK))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OSError as error:
            if error.errno not in _MACHINE and error.errno not in _NAMES:
                self._fault(context, error)
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"tara: {clean(f'{where}{error.strerror}')}", err=True)
            context.exit(int(ExitCode.ENVIRONMENT if error.errno in _MACHINE else ExitCode.BAD_INPUT))
        except Exception as error:  # noqa: BLE001 - the last door: one line for the person, the whole for the report
            self._fault(context, error)

    def _fault(self, context: click.Context, error: Exception) -> NoReturn:
        where = _write_trace(context)
        click.echo(
            f"tara: a fault in TARA itself: {clean(f'{type(error).__name__}: {error}'.splitlines()[0])} — "
            f"the details are in {where}",
            err=True,
        )
        context.exit(int(ExitCode.INTERNAL))


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tara", prog_name="tara", message="%(prog)s %(version)s")
@click.option("--root", metavar="DIR", help="The workspace; otherwise TARA_ROOT, or the current folder and above.")
@click.pass_context
def tara(context: click.Context, root: str | None) -> None:
    """TARA trains, builds, releases and tries out domain adapters of language models.

    Without a command it opens the console.
    """
    context.obj = root
    if context.invoked_subcommand is None:
        context.invoke(_load("console"))


def _load(name: str) -> click.Command:
    command = Group().get_command(click.Context(tara), name)
    assert command is not None
    return command


def _write_trace(context: click.Context) -> Path:
    from core.workspace import find_workspace

    try:
        folder = find_workspace(context.obj).runs
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "fault.log"
        with open(path, "a") as stream:
            stream.write(traceback.format_exc())
    except (TaraError, OSError):
        import tempfile

        path = Path(tempfile.gettempdir()) / f"tara-fault-{os.getpid()}.log"
        path.write_text(traceback.format_exc())
    return path
