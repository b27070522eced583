"""An ssh client in a process of its own: `python -m tests.terminal.ssh_client FOLDER [COMMAND]`.

It logs in at the server of `ssh_server` that serves from FOLDER, with `user_key` there. Without a command it puts its
terminal at the shell's disposal, as `ssh -tt` does; its exit status is that of the far end, 255 where the connection
broke.
"""

import asyncio
import getpass
import os
import sys
import termios
import tty
from pathlib import Path

import asyncssh

from tests.terminal.ssh_server import PORT, first_of, readable


async def _terminal(connection: asyncssh.SSHClientConnection) -> int:
    """A login on this terminal."""
    size = os.get_terminal_size()
    process = await connection.create_process(
        term_type=os.environ["TERM"], term_size=(size.columns, size.lines), encoding=None, stderr=asyncssh.STDOUT
    )

    async def keys() -> None:
        while True:
            await readable(0)
            process.stdin.write(os.read(0, 4096))

    async def screen() -> None:
        while data := await process.stdout.read(65536):
            os.write(1, data)

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        await first_of(asyncio.create_task(keys()), asyncio.create_task(screen()))
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
    return 255 if process.exit_status is None else process.exit_status


async def main(folder: Path, command: str | None) -> int:
    """Log in; the exit status."""
    async with asyncssh.connect(
        "127.0.0.1",
        int((folder / PORT).read_text()),
        username=getpass.getuser(),
        client_keys=[str(folder / "user_key")],
        known_hosts=(str(folder / "host_key.pub"), [], []),
        config=None,
        agent_path=None,
    ) as connection:
        if command is None:
            return await _terminal(connection)
        done = await connection.run(command, encoding=None)
        os.write(1, bytes(done.stdout or b""))
        os.write(2, bytes(done.stderr or b""))
        return 255 if done.exit_status is None else done.exit_status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)))
