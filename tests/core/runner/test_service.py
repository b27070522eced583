"""The runner started with the machine: what is installed is really run, after everything was killed."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from core.errors import EnvironmentLacks, InvalidInput
from core.runner import service
from core.runner.presence import runner_pid
from core.workspace import Workspace
from tests.core.runner.watch import (
    add_job,
    at_once,
    attempts,
    frozen,
    kill,
    kill_runner,
    over,
    source_folder,
    state,
)

# Stand-ins that keep what they are told in files, as cron and systemd do.
CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then [ -f "$KEPT/crontab" ] && cat "$KEPT/crontab" || { echo "no crontab" >&2; exit 1; }
elif [ "$1" = - ]; then cat > "$KEPT/crontab"
fi
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$KEPT/systemctl"
"""
LOGINCTL = """#!/bin/sh
cat "$KEPT/linger"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that is the whole PATH, and keeps what they are told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "cat"):
        (programs / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("KEPT", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return programs


def program(machine: Path, name: str, text: str) -> None:
    (machine / name).write_text(text)
    (machine / name).chmod(0o755)


def after_a_restart(workspace: Workspace) -> int:
    """A job that was at work when the machine went down: nothing lives, locks and records lie about. Its number."""
    at_once(workspace)
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, job = frozen(workspace, number)
    kill_runner(workspace)
    kill(shim)
    kill(job)
    record = run_dir / "shim.json"
    who = json.loads(record.read_text())
    for one in (who, who["job"]):
        one["boot_id"] = "the boot before"
        one["pid"] = os.getpid()  # the number belongs to another process by now
    record.write_text(json.dumps(who))
    assert state(workspace, number) in ("starting", "running")
    return number


def resumed(workspace: Workspace, number: int) -> None:
    assert over(workspace, number).state == "succeeded"
    assert attempts(workspace, number) == [("retried", "reboot", None, None), ("succeeded", None, 0, None)]


def test_cron_starts_the_runner_and_it_takes_up_what_was_broken_off(workspace: Workspace, machine: Path) -> None:
    program(machine, "crontab", CRONTAB)
    kept = machine.parent / "crontab"
    kept.write_text("0 5 * * * backup\n")
    number = after_a_restart(workspace)
    found = service.install(workspace)
    assert found.kind == "cron"
    service.install(workspace)  # twice changes nothing
    first, line = kept.read_text().splitlines()
    assert first == "0 5 * * * backup"
    assert line.startswith("@reboot cd ")
    assert runner_pid(workspace) is None
    # As cron does it: the rest of the line, with \\% made %, by a shell of few variables, detached.
    command = line.removeprefix("@reboot ").replace("\\%", "%")
    subprocess.Popen(["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin", "HOME": "/"}, start_new_session=True)
    resumed(workspace, number)
    assert service.remove(workspace)
    assert kept.read_text() == "0 5 * * * backup\n"
    assert not service.remove(workspace)
    assert service.status(workspace).kind is None


def test_systemd_gets_a_unit_whose_command_does_the_same(workspace: Workspace, machine: Path) -> None:
    program(machine, "systemctl", SYSTEMCTL)
    program(machine, "loginctl", LOGINCTL)
    (machine.parent / "linger").write_text("no\n")
    number = after_a_restart(workspace)
    found = service.install(workspace)
    assert found.kind == "systemd"
    assert "loginctl enable-linger" in found.after_reboot
    (machine.parent / "linger").write_text("yes\n")
    assert "with the machine" in service.status(workspace).after_reboot
    unit = Path(str(found.where))
    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)
    assert settings["KillMode"] == "process"
    told = (machine.parent / "systemctl").read_text()
    assert f"--user enable {unit.name}" in told
    command = shlex.split(settings["ExecStart"].replace("%%", "%").replace("$$", "$"))
    subprocess.Popen(command, cwd=settings["WorkingDirectory"], env={"PATH": "/usr/bin:/bin"}, start_new_session=True)
    resumed(workspace, number)
    assert service.remove(workspace)
    assert not unit.exists()
    assert f"--user disable {unit.name}" in (machine.parent / "systemctl").read_text()


def test_a_machine_with_neither_is_told_what_to_run(workspace: Workspace, machine: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="neither a systemd") as caught:
        service.install(workspace)
    assert str(caught.value.hint).endswith(f"-m core.runner {workspace.root}")
    assert "wait until the next" in service.status(workspace).after_reboot


def test_a_cron_that_refuses_is_told(workspace: Workspace, machine: Path) -> None:
    program(machine, "crontab", "#!/bin/sh\n[ \"$1\" = -l ] && exit 1\necho 'you may not use cron' >&2; exit 1\n")
    with pytest.raises(EnvironmentLacks, match="you may not use cron"):
        service.install(workspace)


def test_hostile_folder_names_are_refused_or_quoted(tmp_path: Path, machine: Path) -> None:
    program(machine, "crontab", CRONTAB)
    with pytest.raises(InvalidInput, match="cannot hold"):
        service.install(Workspace(tmp_path / "a\n* * * * * evil"))
    odd = Workspace(tmp_path / 'it\'s 100% $HOME "x"')
    service.install(odd)
    (line,) = (machine.parent / "crontab").read_text().splitlines()
    command = line.removeprefix("@reboot ").replace("\\%", "%").replace(">/dev/null 2>&1", "")
    shown = command.replace(" -m core.runner", " -c 'import sys; print(sys.argv[1])'")
    said = subprocess.run(["/bin/sh", "-c", shown], capture_output=True, text=True, check=True)
    assert said.stdout == f"{odd.root}\n"


@pytest.mark.parametrize(
    ("lingers", "text", "words"),
    [
        (True, "KillUserProcesses=yes", "lingering is on"),
        (False, "#KillUserProcesses=yes", "KillUserProcesses is off"),
        (False, "[Login]\nKillUserProcesses = yes", "logind ends runner and jobs"),
    ],
)
def test_what_survives_a_logout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lingers: bool, text: str, words: str
) -> None:
    (tmp_path / "logind.conf").write_text(f"{text}\n")
    monkeypatch.setattr(service, "LOGIND", (tmp_path / "logind.conf", tmp_path / "none"))
    monkeypatch.setattr(service, "_lingers", lambda: lingers)
    monkeypatch.setattr(service, "SYSTEMD", tmp_path)
    assert words in service.after_logout()
    monkeypatch.setattr(service, "SYSTEMD", tmp_path / "absent")
    assert "no systemd" in service.after_logout()
