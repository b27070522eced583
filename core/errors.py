"""The errors a person is meant to read, and the exit code each stands for."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a `tara` command's exit status means (documented in docs/commands.md)."""

    OK = 0
    FAILED = 1  # the work ran and did not succeed: a job failed, a check found a fault
    USAGE = 2  # the command line itself is wrong
    BAD_INPUT = 3  # a name, value or file that cannot be used; nothing was changed
    REFUSED = 4  # understood, but a guard forbids it (state, quality, confirmation)
    ENVIRONMENT = 5  # the machine lacks something: compiler, disk, permission, package
    INTERNAL = 70  # a fault in TARA itself
    INTERRUPTED = 130  # left by Ctrl-C; jobs go on


class TaraError(Exception):
    """A failure explained in one line: what happened, where, and what to do next."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def one_line(self) -> str:
        """The message and its hint on one line, as commands and the console print it."""
        text = f"{self.message} — {self.hint}" if self.hint else self.message
        return " ".join(text.split())


class InvalidInput(TaraError):
    """Something the person gave cannot be used; nothing was changed."""

    exit_code = ExitCode.BAD_INPUT


class Refused(TaraError):
    """The request is clear, but a guard forbids it in the present state."""

    exit_code = ExitCode.REFUSED


class EnvironmentLacks(TaraError):
    """The machine lacks what the work needs."""

    exit_code = ExitCode.ENVIRONMENT


class SettingsChanged(Refused):
    """A training would begin anew although an unfinished one of the domain has other settings: a person must choose.

    `lines` say for each domain what differs and where the old one stands; `can_leave` is whether starting afresh is
    possible now (it is not while the old one is queued, running or paused).
    """

    def __init__(self, message: str, hint: str, lines: tuple[str, ...], *, can_leave: bool) -> None:
        super().__init__(message, hint)
        self.lines = lines
        self.can_leave = can_leave


class BelowThreshold(Refused):
    """Domains of a phase are below its quality threshold; `lines` name each with its measured quality. A person may go
    ahead with a reason, which is recorded."""

    def __init__(self, message: str, hint: str, lines: tuple[str, ...]) -> None:
        super().__init__(message, hint)
        self.lines = lines


class NoRoom(EnvironmentLacks):
    """The disk has no room for what the work makes; a job that meets it waits for room and tries again."""
