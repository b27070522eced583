"""A training that was started over ssh goes on when the connection is cut, and the next login sees it go on.

Each story is told with a server that needs nothing installed, and with OpenSSH's (marked `openssh`: make test-openssh).
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from core.phases.service import create_phase
from core.workspace import Workspace
from tests.core.runner.watch import attempts, over, process_state, until
from tests.terminal.login import Login, Work, cpu_s, far_end, leaves
from tests.terminal.ssh import AsyncSsh, OpenSsh, Server

STEPS = 100
TRAINING = r"job (\d+) train healthcare: running (\d+)/"
TRAIN_S = 120.0  # for torch to be loaded and the first steps made, on a busy machine


@pytest.fixture(params=[AsyncSsh, pytest.param(OpenSsh, marks=pytest.mark.openssh)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that lets logins in."""
    made: Server = request.param(tmp_path / "ssh")
    try:
        made.start()
        yield made
    finally:
        made.stop()
        print((tmp_path / "ssh" / "log").read_text())  # shown where a test fails


@pytest.fixture
def box(tiny_workspace: Workspace) -> Workspace:
    """A workspace whose phase 1 has a domain with a training of many quick steps."""
    presets, settings = tiny_workspace.configs / "presets.yaml", tiny_workspace.configs / "settings.yaml"
    known = yaml.safe_load(presets.read_text("utf-8"))
    known["long"] = {**known["ultra"], "epochs": 1000, "max_steps": STEPS, "save_steps": 50, "batch_size": 2}
    presets.write_text(yaml.safe_dump(known), "utf-8")
    settings.write_text(settings.read_text("utf-8").replace("preset: starter ", "preset: long "), "utf-8")
    create_phase(tiny_workspace, 1, ["healthcare"])
    return tiny_workspace


@pytest.fixture
def log_in(server: Server, box: Workspace) -> Iterator[Callable[[], Login]]:
    """Logs in again and again; what is left of it is ended afterwards."""
    made: list[Login] = []

    def enter() -> Login:
        server.start()
        made.append(Login(server, box))
        return made[-1]

    yield enter
    for login in made:
        login.close()


def seen(login: Login) -> tuple[int, int]:
    """The training that the console shows running: job and step."""
    found = login.finds(TRAINING, TRAIN_S)
    return int(found[1]), int(found[2])


def start_from_the_console(login: Login) -> tuple[int, int]:
    """Open the console and train the domain by its key; the console's process, and the job that is seen to run."""
    login.write("tara\n")
    login.shows("Domains of phase 1", TRAIN_S)
    console = login.started("/tara")
    login.write("t")
    job_id, _ = seen(login)
    return console, job_id


def ends_well(server: Server, box: Workspace, job_id: int) -> None:
    """The next login's commands tell that the job succeeded at its first attempt, and nobody had to start it again."""
    far_end(server, box, f"tara jobs wait {job_id}")
    told = json.loads(far_end(server, box, f"tara jobs show {job_id} --json"))
    assert (told["state"], told["attempt"], told["step"]) == ("succeeded", 1, STEPS)
    assert attempts(box, job_id) == [("succeeded", None, 0, None)]


@pytest.mark.parametrize("cut", [Login.cut_at_the_server, Login.cut_at_the_client])
def test_a_cut_connection_ends_the_console_and_nothing_else(
    cut: Callable[[Login], None], server: Server, box: Workspace, log_in: Callable[[], Login]
) -> None:
    first = log_in()
    console, job_id = start_from_the_console(first)
    work = Work(box, job_id)
    at_the_cut = work.step()
    cut(first)
    leaves(console, "the console")
    leaves(first.shell, "the shell")
    work.goes_on_without(first)

    second = log_in()
    second.write("tara\n")
    again, step = seen(second)
    assert again == job_id
    assert step > at_the_cut
    second.write("q")
    second.shows("jobs go on: 1 running")
    ends_well(server, box, job_id)


def test_a_silent_connection_holds_up_nothing(server: Server, box: Workspace, log_in: Callable[[], Login]) -> None:
    """As when a laptop is closed: nobody hangs up, and nobody reads what the console draws."""
    first = log_in()
    console, job_id = start_from_the_console(first)
    work = Work(box, job_id)
    os.kill(first.pid, signal.SIGSTOP)
    until(lambda: process_state(first.pid) == "T", "the client stands still")
    began, before = time.monotonic(), cpu_s(console)
    second = log_in()
    second.write("tara\n")
    again, step = seen(second)
    assert again == job_id
    second.read_until(lambda: work.step() > step + 10, TRAIN_S)
    work.goes_on_without(first)
    assert cpu_s(console) - before < 0.5 * (time.monotonic() - began), "the console spins"
    first.cut_at_the_client()
    leaves(console, "the console")
    ends_well(server, box, job_id)


def test_commands_that_follow_are_cut_and_the_work_goes_on(
    server: Server, box: Workspace, log_in: Callable[[], Login]
) -> None:
    first = log_in()
    first.write("tara build-phase 1\n")
    first.finds(r"train healthcare +\[[#-]+\] +\d+%", TRAIN_S)
    command = first.started("build-phase")
    listed = json.loads(far_end(server, box, "tara jobs list --active --json"))
    job_id = next(job["id"] for job in listed if job["kind"] == "train")
    work = Work(box, job_id)
    first.cut_at_the_server()
    leaves(command, "tara build-phase")
    work.goes_on_without(first)

    second = log_in()
    second.write(f"tara jobs logs -f {job_id}\n")
    second.finds(r"step \d+/\d+  loss", TRAIN_S)
    command = second.started("logs")
    second.cut_at_the_client()
    leaves(command, "tara jobs logs")
    work.goes_on_without(second)
    assert over(box, job_id, within=TRAIN_S).state == "succeeded"
    assert len(attempts(box, job_id)) == 1
