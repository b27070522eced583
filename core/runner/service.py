"""Starting the runner when the machine starts: a systemd user unit, or a cron line where there is no systemd.

What is installed starts the runner of one workspace, which then takes up what the restart broke off. Nothing here needs
more than the person's own rights.
"""

import getpass
import hashlib
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from core.errors import EnvironmentLacks, InvalidInput
from core.files import write_atomically
from core.runner.presence import CODE, runner_command
from core.workspace import Workspace

TIMEOUT_S = 20.0
SYSTEMD = Path("/run/systemd/system")  # there where systemd is the machine's first process
LOGIND = (Path("/etc/systemd/logind.conf"), Path("/etc/systemd/logind.conf.d"))


@dataclass(frozen=True)
class ServiceStatus:
    """What is installed for a workspace, and what becomes of its jobs when the person logs out."""

    kind: str | None  # systemd, cron; None: nothing is installed
    where: str | None  # the unit's file, or the cron line
    after_reboot: str
    after_logout: str


def install(workspace: Workspace) -> ServiceStatus:
    """Have the runner started with the machine. Raises EnvironmentLacks where there is neither systemd nor cron,
    InvalidInput for a folder whose name cannot stand in such a file."""
    if not str(workspace.root).isprintable():
        raise InvalidInput(f"{str(workspace.root)!r} has characters that a unit or cron line cannot hold")
    if _has_systemd():
        unit = _unit_file(workspace)
        unit.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(unit, _unit(workspace))
        _run("systemctl", "--user", "daemon-reload")
        _run("systemctl", "--user", "enable", unit.name)
        return status(workspace)
    if shutil.which("crontab"):
        _write_crontab([*_others(workspace), _cron_line(workspace)])
        return status(workspace)
    raise EnvironmentLacks(
        "there is neither a systemd of the user nor cron here, so nothing can start the runner with the machine",
        f"have your own start-up run: {shlex.join(runner_command(workspace))}",
    )


def remove(workspace: Workspace) -> bool:
    """Undo `install`; False where nothing was installed. A runner that lives goes on."""
    removed = False
    unit = _unit_file(workspace)
    if unit.exists():
        if _has_systemd():
            _run("systemctl", "--user", "disable", unit.name)
        unit.unlink()
        if _has_systemd():
            _run("systemctl", "--user", "daemon-reload")
        removed = True
    if _installed_cron_line(workspace) is not None:
        _write_crontab(_others(workspace))
        removed = True
    return removed


def status(workspace: Workspace) -> ServiceStatus:
    """What is installed, and what would survive a restart of the machine and a logout."""
    unit, line = _unit_file(workspace), _installed_cron_line(workspace)
    lingers = _lingers()
    if unit.exists():
        after = "the runner starts with the machine and takes up what was broken off"
        if lingers is False:
            after = f"the runner starts at your first login, not with the machine: loginctl enable-linger {_user()}"
        return ServiceStatus("systemd", str(unit), after, after_logout())
    if line is not None:
        after = "cron starts the runner with the machine; it takes up what was broken off"
        return ServiceStatus("cron", line, after, after_logout())
    return ServiceStatus(
        None, None, "jobs wait until the next tara command or console (tara service install)", after_logout()
    )


def after_logout() -> str:
    """Whether runner and jobs survive a logout on this machine, in a sentence."""
    if not SYSTEMD.is_dir():
        return "runner and jobs go on: no systemd ends a person's processes here"
    if _lingers():
        return "runner and jobs go on: lingering is on"
    if not _kills_user_processes():
        return "runner and jobs go on: KillUserProcesses is off"
    return f"logind ends runner and jobs (KillUserProcesses): loginctl enable-linger {_user()}"


def _name(workspace: Workspace) -> str:
    return f"tara-{hashlib.sha256(str(workspace.root).encode()).hexdigest()[:8]}"


def _unit_file(workspace: Workspace) -> Path:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "systemd" / "user" / f"{_name(workspace)}.service"


def _unit(workspace: Workspace) -> str:
    # KillMode=process: stopping the unit stops the runner; its jobs go on, as after `tara runner stop`.
    command = " ".join(_quoted(part) for part in runner_command(workspace))
    return f"""[Unit]
Description=TARA: jobs of {_plain(str(workspace.root))}

[Service]
ExecStart={command}
WorkingDirectory={_plain(str(CODE))}
KillMode=process
Restart=on-failure
RestartSec=5

[Install]
WantedBy=default.target
"""


def _plain(text: str) -> str:
    """Text in a unit file, where % begins a specifier."""
    return text.replace("%", "%%")


def _quoted(part: str) -> str:
    """One argument of ExecStart."""
    escaped = _plain(part).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _cron_line(workspace: Workspace) -> str:
    command = f"cd {shlex.quote(str(CODE))} && {shlex.join(runner_command(workspace))} >/dev/null 2>&1"
    escaped = command.replace("%", "\\%")  # cron takes a bare % for a line's end
    return f"@reboot {escaped} # {_name(workspace)}"


def _crontab() -> list[str]:
    if not shutil.which("crontab"):
        return []
    found = subprocess.run(["crontab", "-l"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return found.stdout.splitlines() if found.returncode == 0 else []  # status 1: there is none yet


def _installed_cron_line(workspace: Workspace) -> str | None:
    return next((line for line in _crontab() if line.endswith(f"# {_name(workspace)}")), None)


def _others(workspace: Workspace) -> list[str]:
    return [line for line in _crontab() if not line.endswith(f"# {_name(workspace)}")]


def _write_crontab(lines: list[str]) -> None:
    _run("crontab", "-", given="".join(f"{line}\n" for line in lines))


def _has_systemd() -> bool:
    if not shutil.which("systemctl"):
        return False
    asked = subprocess.run(
        ["systemctl", "--user", "show-environment"], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    return asked.returncode == 0


def _lingers() -> bool | None:
    """Whether logind keeps the person's services without a login; None where there is no logind to ask."""
    if not shutil.which("loginctl"):
        return None
    asked = subprocess.run(
        ["loginctl", "show-user", _user(), "--property=Linger", "--value"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return asked.stdout.strip() == "yes" if asked.returncode == 0 else None


def _kills_user_processes() -> bool:
    """What logind's files say; its own default is no."""
    found = False
    main, folder = LOGIND
    files = [main, *(sorted(folder.glob("*.conf")) if folder.is_dir() else [])]
    for file in files:
        try:
            lines = file.read_text("utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.strip().partition("=")
            if name.strip() == "KillUserProcesses":
                found = value.strip().lower() in ("yes", "true", "1", "on")
    return found


def _user() -> str:
    return getpass.getuser()


def _run(*command: str, given: str | None = None) -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EnvironmentLacks(f"{shlex.join(command)} failed: {said[0] if said else f'status {done.returncode}'}")
