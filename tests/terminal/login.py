"""A person at the far end of an ssh connection, and what becomes of the processes they leave behind."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from core.runner.presence import runner_pid
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.runner.watch import gone, processes, until, view
from tests.terminal.pseudo_terminal import Terminal
from tests.terminal.ssh import Server

LOGIN_S = 60.0
COMMAND_S = 180
LEAVE_S = 10.0  # a console without a terminal leaves by force after three seconds and a look


def surroundings(workspace: Workspace) -> str:
    """What is typed first after each login: go to the workspace, and have `tara` found."""
    # On a GPU the training would be over before anybody has logged in again.
    variables = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], "CUDA_VISIBLE_DEVICES": ""}
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    words.append(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    return f"cd {shlex.quote(str(workspace.root))} && export {' '.join(words)}"


class Login(Terminal):
    """A client on a terminal, logged in, in the workspace's folder."""

    def __init__(self, server: Server, workspace: Workspace) -> None:
        super().__init__(*server.client(), columns=120, rows=36)
        self.write(f"{surroundings(workspace)} && echo shell $$ is ready\n")
        self.shell = int(self.finds(r"shell (\d+) is ready", LOGIN_S)[1])

    def started(self, word: str) -> int:
        """The process that the shell runs with this word on its command line."""

        def look() -> int | None:
            for name in os.listdir("/proc"):
                if name.isdigit() and parent(int(name)) == self.shell and word in command_line(int(name)):
                    return int(name)
            return None

        return until(look, f"the shell runs {word}")

    def cut_at_the_server(self) -> None:
        """kill -9 of the server's process that holds this login's terminal."""
        holder = parent(self.shell)
        assert holder is not None
        os.kill(holder, signal.SIGKILL)

    def cut_at_the_client(self) -> None:
        """kill -9 of the client."""
        self.kill()


def far_end(server: Server, workspace: Workspace, command: str) -> str:
    """What a command says that is done over ssh without a terminal; it must succeed."""
    done = subprocess.run(
        server.client(f"{surroundings(workspace)} && timeout {COMMAND_S} {command}"),  # no hang-up would end it
        cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S + LOGIN_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


class Work:
    """The processes that do a job: runner, shim and job, as they are now."""

    def __init__(self, workspace: Workspace, job_id: int) -> None:
        self.workspace, self.job_id = workspace, job_id
        who = processes(workspace.root / str(view(workspace, job_id).run_dir))
        runner = runner_pid(workspace)
        assert runner is not None
        self.pids = {"runner": runner, "shim": int(who["pid"]), "job": int(who["job"]["pid"])}

    def step(self) -> int:
        """How far the job is."""
        return view(self.workspace, self.job_id).step or 0

    def goes_on_without(self, login: Login) -> None:
        """The very processes live, none of them belongs to that login or holds a terminal, and the job gets on."""
        for name, pid in self.pids.items():
            assert not gone(pid), f"the {name} is gone"
            fields = stat(pid)
            assert fields is not None, f"the {name} is gone"
            session, terminal = int(fields[3]), int(fields[4])
            assert session in self.pids.values(), f"the {name} is in session {session} of another"
            assert session != login.shell, f"the {name} is in the login's session"
            assert terminal == 0, f"the {name} has a terminal, so it is sent its hang-up"
            assert not [path for path in opened(pid) if path.startswith("/dev/pts")], f"the {name} holds a terminal"
        before = self.step()
        until(lambda: self.step() > before, "the job gets on", within=60)
        assert runner_pid(self.workspace) == self.pids["runner"]


def leaves(pid: int, what: str) -> None:
    """Wait until a process is gone; a failure with what it did meanwhile where it is not soon."""
    began, before = time.monotonic(), cpu_s(pid)
    while not gone(pid):
        spent = time.monotonic() - began
        assert spent < LEAVE_S, f"{what} lives {spent:.0f} s after the cut; it computed {cpu_s(pid) - before:.1f} s"
        time.sleep(0.02)


def stat(pid: int) -> list[str] | None:
    """The fields of a process from its state on: state, parent, group, session, terminal …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def parent(pid: int) -> int | None:
    """A process's parent."""
    fields = stat(pid)
    return int(fields[1]) if fields is not None else None


def cpu_s(pid: int) -> float:
    """Seconds a process has computed; 0 where it is gone."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields is not None else 0.0


def opened(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def command_line(pid: int) -> str:
    """A process's command line; '' where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
