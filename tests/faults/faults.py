"""What is done to a live workspace. Each fault is drawn from the seeded generator and says what it did."""

import os
import pty
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.runner.presence import CODE, runner_command
from tests.faults.scene import RESERVE_MB, TARA, Scene, processes
from tests.faults.small_disk import filled, on_small_disk

Fault = Callable[[Scene, random.Random], str]


def _kill(scene: Scene, order: random.Random, kinds: tuple[str, ...], number: int) -> str:
    victims = sorted(one for one in processes(scene.workspace.root) if one[1] in kinds)
    if not victims:
        return "nobody there"
    pid, kind, folder = order.choice(victims)
    _send(pid, number)
    return f"{signal.Signals(number).name} to {kind} {Path(folder).name}".strip()


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def kill_job(scene: Scene, order: random.Random) -> str:
    """kill -9 of a worker."""
    return _kill(scene, order, ("job",), signal.SIGKILL)


def kill_shim(scene: Scene, order: random.Random) -> str:
    """kill -9 of a job's parent."""
    return _kill(scene, order, ("shim",), signal.SIGKILL)


def kill_runner(scene: Scene, order: random.Random) -> str:
    """kill -9 of the runner."""
    return _kill(scene, order, ("runner",), signal.SIGKILL)


def terminate(scene: Scene, order: random.Random) -> str:
    """A polite end for anything."""
    return _kill(scene, order, ("job", "shim", "runner"), signal.SIGTERM)


def kill_everything(scene: Scene, order: random.Random) -> str:
    """As the machine going down: all at once, in any order."""
    victims = sorted(processes(scene.workspace.root))
    if not victims:
        return "nobody there"
    order.shuffle(victims)
    scene.consoles.killed.update(pid for pid, _, _ in victims)
    for pid, _, _ in victims:
        _send(pid, signal.SIGKILL)
    return f"SIGKILL to all {len(victims)}"


def sleep_and_wake(scene: Scene, order: random.Random) -> str:
    """Processes stand still for a while, as on a machine that slept."""
    victims = sorted(processes(scene.workspace.root))
    chosen = [one for one in victims if order.random() < 0.6]
    if not chosen:
        return "nobody there"
    for pid, _, _ in chosen:
        _send(pid, signal.SIGSTOP)
    time.sleep(order.uniform(0.1, 1.0))
    for pid, _, _ in chosen:
        _send(pid, signal.SIGCONT)
    return f"{len(chosen)} of {len(victims)} stood still"


def second_runner(scene: Scene, order: random.Random) -> str:
    """Two more runners at once; each but one must leave by itself."""
    for _ in range(2):
        subprocess.Popen(
            runner_command(scene.workspace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=CODE,
        )
    return "two more runners"


def spoil_checkpoint(scene: Scene, order: random.Random) -> str:
    """Cut, flip or remove a file of a checkpoint."""
    files = sorted(path for path in scene.workspace.checkpoints.glob("*/step-*/*") if path.is_file())
    if not files:
        return "no checkpoint there"
    path, how = order.choice(files), order.choice(("cut", "flip", "remove"))
    try:
        if how == "remove":
            path.unlink()
        elif how == "cut":
            os.truncate(path, int(path.stat().st_size * order.random()))
        else:
            # As a new file: one that others are linked to must not change under them.
            data = bytearray(path.read_bytes())
            if data:
                data[order.randrange(len(data))] ^= 1 << order.randrange(8)
            path.unlink()
            path.write_bytes(bytes(data))
    except FileNotFoundError:
        return "the checkpoint went"
    return f"{how} {path.parent.name}/{path.name}"


def command(scene: Scene, order: random.Random) -> str:
    """A command that is perhaps killed in the middle."""
    number = str(order.choice(scene.accepted))
    words = order.choice(
        (
            ("jobs", "list", "--json"),
            ("jobs", "show", number),
            ("jobs", "retry", number),
            ("jobs", "pause", number),
            ("jobs", "resume", number),
            ("list-phases", "--json"),
            ("runner", "status"),
            ("runner", "start"),
        )
    )
    running = subprocess.Popen(
        [TARA, "--root", scene.workspace.root, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if order.random() < 0.4:
        time.sleep(order.uniform(0.0, 0.4))
        running.kill()
        running.wait()
        return f"{' '.join(words)}, killed"
    running.wait(timeout=60)
    return " ".join(words)


def console(scene: Scene, order: random.Random) -> str:
    """A console on a terminal that goes away under it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where these faults run under nohup
        os.execv(TARA, [str(TARA), "--root", str(scene.workspace.root)])

    def drink() -> None:
        try:
            while os.read(terminal, 65536):
                pass
        except OSError:
            return  # the terminal is gone, as it should be

    reader = threading.Thread(target=drink, daemon=True)
    reader.start()
    time.sleep(order.uniform(0.3, 2.0))
    if order.random() < 0.5:
        _send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
        return "console killed"
    _send(pid, signal.SIGHUP)
    os.waitpid(pid, 0)
    os.close(terminal)
    return "console hung up"


def three_consoles(scene: Scene, order: random.Random) -> str:
    """Three consoles at once, on terminals of different sizes, that stay for some faults."""
    return scene.consoles.start(order)


def full_disk(scene: Scene, order: random.Random) -> str:
    """Somebody else fills the disk for a while: to the last byte, or to less than the reserve; perhaps somebody is
    killed meanwhile."""
    leave = order.choice((0, 0, 300_000, RESERVE_MB * 500_000))
    hold_s, killing = order.uniform(0.5, 2.0), order.random() < 0.3
    if not on_small_disk():
        return "nobody: not on a small disk"
    with filled(scene.workspace.root, leave) as taken:
        started = time.monotonic()
        also = _kill(scene, order, ("job", "shim", "runner"), signal.SIGKILL) if killing else ""
        time.sleep(max(0.0, hold_s - (time.monotonic() - started)))
    also = f", {also}" if also else ""
    return f"{taken / 1e6:.0f} MB taken, {leave / 1e6:g} left, for {hold_s:.1f} s{also}"


FAULTS: dict[str, tuple[float, Fault]] = {  # weight, what
    "kill job": (4, kill_job),
    "kill shim": (3, kill_shim),
    "kill runner": (4, kill_runner),
    "terminate": (2, terminate),
    "kill everything": (1, kill_everything),
    "sleep": (2, sleep_and_wake),
    "more runners": (1, second_runner),
    "spoil checkpoint": (3, spoil_checkpoint),
    "command": (5, command),
    "console": (1, console),
    "three consoles": (1, three_consoles),
    "full disk": (2, full_disk),
}
