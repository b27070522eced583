"""What every command shares: the workspace, `--json`, tables and plain figures."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from core.errors import TaraError
from core.phases.kinds import NO_TARGET, TargetSize
from core.store.views import JobView, Measurement
from core.text import NOT_MEASURED, escaped_json
from core.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from core.store.reads import Reader

F = TypeVar("F", bound=Callable[..., Any])


class _Number(click.ParamType):
    """A whole number that the store can hold."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(click.INT.convert(value, param, ctx))
        if abs(number) >= 1 << 63:
            self.fail(f"{value} is too large", param, ctx)
        return number


class _Target(click.ParamType):
    """Megabytes, or none."""

    name = "target size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TargetSize:
        try:
            return NO_TARGET if value == NO_TARGET else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of megabytes nor {NO_TARGET}", param, ctx)


NUMBER = _Number()
TARGET = _Target()


def json_option(command: F) -> F:
    """`--json`: one JSON value on standard output and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def root_option(command: F) -> F:
    """`--root` also behind the command's name."""
    return click.option("--root", "root", metavar="DIR", default=None, help="The workspace.")(command)


def workspace_of(root: str | None) -> Workspace:
    """The workspace of this call."""
    context = click.get_current_context()
    return find_workspace(root or context.find_root().obj)


@contextmanager
def true_reader(root: str | None) -> Iterator["Reader"]:
    """A reader of the workspace whose jobs somebody looks after: where the runner is gone though there is work, it is
    started first and has gone over all jobs. Where that cannot be, or a person stopped it, it is said on standard error
    that states may be old."""
    from core.store.reads import open_reader

    with open_reader(workspace_of(root)) as reader:
        if reader.unwatched():
            _settle(reader.workspace)
        yield reader


def see_to_jobs(root: str | None) -> None:
    """As `true_reader`, for a command that decides by the states of jobs and reads them elsewhere."""
    with true_reader(root):
        return


def _settle(workspace: Workspace) -> None:
    from core.runner.client import revive_runner
    from core.runner.presence import stopped_mark

    try:
        revive_runner(workspace)
    except (TaraError, OSError) as error:
        click.echo(f"tara: no runner looks after the jobs, so their states may be old ({_words(error)})", err=True)
    if stopped_mark(workspace).exists():
        click.echo("tara: the runner was stopped, so states of jobs may be old — tara runner start", err=True)


def _words(error: TaraError | OSError) -> str:
    return error.one_line() if isinstance(error, TaraError) else str(error)


def print_json(value: Any) -> None:
    """A value as JSON on standard output, harmless to a terminal."""
    click.echo(escaped_json(json.dumps(value, indent=1, ensure_ascii=False, default=str)))


def figure(measurement: Measurement | None, form: str = ".3f") -> str:
    """A measured value, marked where it was only declared, or `not measured`."""
    if measurement is None:
        return NOT_MEASURED
    value = measurement.value
    text = format(value, form) if isinstance(value, float | int) else str(value)
    return f"{text} (declared)" if measurement.method == "declared" else text


def job_line(job: JobView) -> str:
    """A job in one line, for messages."""
    return f"job {job.id} ({job.title})"


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()
