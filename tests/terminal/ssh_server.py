"""A small ssh server in one process, for machines without OpenSSH: `python -m tests.terminal.ssh_server FOLDER`.

As sshd does, it lets this user in by a key, gives each login a shell on a pseudo-terminal in a session of its own, and
hangs up when the connection is gone; it listens on the loopback alone. FOLDER holds `host_key` and `authorized_keys`;
the number of its port is written into `port` there.
"""

import asyncio
import fcntl
import getpass
import os
import pty
import shutil
import struct
import sys
import termios
from pathlib import Path

import asyncssh

from core.files import write_atomically

SHELL = shutil.which("bash") or "/bin/sh"
PORT = "port"


async def readable(descriptor: int) -> None:
    """Return once a descriptor has something to read."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def first_of(*works: asyncio.Task[None]) -> None:
    """Return when one of the works is over, and end the others; how they ended does not matter."""
    await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    for work in works:
        work.cancel()
    await asyncio.gather(*works, return_exceptions=True)


async def _login(process: "asyncssh.SSHServerProcess[bytes]", environment: dict[str, str]) -> int:
    """A shell on a pseudo-terminal until it ends or the connection is gone; its exit status."""
    master, slave = pty.openpty()
    width, height, _, _ = process.term_size
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    shell = await asyncio.create_subprocess_exec(
        f"-{Path(SHELL).name}",
        executable=SHELL,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**environment, "TERM": process.term_type or "dumb"},
        cwd=Path.home(),
    )
    os.close(slave)

    async def to_client() -> None:
        while True:
            await readable(master)
            process.stdout.write(os.read(master, 65536))
            await process.stdout.drain()  # a client that reads nothing holds up who writes, as with sshd

    async def to_shell() -> None:
        while data := await process.stdin.read(4096):
            os.write(master, data)

    await first_of(asyncio.create_task(to_client()), asyncio.create_task(to_shell()))
    os.close(master)  # the kernel hangs up
    return await shell.wait()


async def _command(process: "asyncssh.SSHServerProcess[bytes]", environment: dict[str, str]) -> int:
    """A command without a terminal; its exit status."""
    child = await asyncio.create_subprocess_exec(
        SHELL,
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env=environment,
        cwd=Path.home(),
    )
    out, err = await child.communicate()
    process.stdout.write(out)
    process.stderr.write(err)
    return int(child.returncode or 0)


async def _attend(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    user = getpass.getuser()
    environment = {
        "HOME": str(Path.home()), "USER": user, "LOGNAME": user, "SHELL": SHELL, "PATH": os.defpath,
    }  # fmt: skip
    status = await (_login(process, environment) if process.command is None else _command(process, environment))
    process.exit(status if status >= 0 else 255)


async def serve(folder: Path) -> None:
    """Let logins in until killed."""
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=_attend,
        line_editor=False,
        encoding=None,
    )
    write_atomically(folder / PORT, str(server.get_port()))
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
