"""Two ssh servers that tests log in at over the loopback, behind one interface: OpenSSH's, and one that needs nothing
installed. Each has its own folder, keys and port, and lets this very user in without a password."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import asyncssh

from tests.conftest import ROOT

START_S = 30.0


class Server(Protocol):
    """An ssh server; the process that holds a login's terminal is the parent of its shell."""

    def start(self) -> None:
        """Let logins in; also again, after its process was killed."""

    def client(self, *command: str) -> list[str]:
        """The command line of a client: one that logs in on its terminal, or one that has a command done without."""

    def stop(self) -> None:
        """End it."""


class AsyncSsh:
    """asyncssh's server and client: all logins in one process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(folder / name))
            key.write_public_key(str(folder / f"{name}.pub"))
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        (self.folder / "port").unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.terminal.ssh_server", str(self.folder)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_for(self._process, (self.folder / "port").is_file, self.folder / "log")

    def client(self, *command: str) -> list[str]:
        return [sys.executable, "-m", "tests.terminal.ssh_client", str(self.folder), *command]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class OpenSsh:
    """OpenSSH's sshd and ssh: a process a login."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._sshd, self._ssh, keygen = (_tool(name) for name in ("sshd", "ssh", "ssh-keygen"))
        for name in ("host_key", "user_key"):
            make = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)]
            subprocess.run(make, check=True, timeout=START_S)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's sshd shuts its unprivileged part in there
        self._port = _free_port()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {(folder / 'host_key.pub').read_text()}")
        settings = {
            "ListenAddress": f"127.0.0.1:{self._port}",
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "PidFile": folder / "sshd.pid",
            "AuthenticationMethods": "publickey",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",  # the keys lie in a temporary folder
            "UsePAM": "no",
            "UseDNS": "no",
            "LogLevel": "VERBOSE",
        }
        config = folder / "sshd_config"
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        # From 9.8 on a client whose session was killed may be kept out for a while; older ones do not know the word.
        config.write_text(f"{text}PerSourcePenalties no\n")
        if subprocess.run([self._sshd, "-t", "-f", config], capture_output=True, timeout=START_S).returncode != 0:
            config.write_text(text)

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        command = [self._sshd, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        _wait_for(self._process, self._listens, self.folder / "log")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def client(self, *command: str) -> list[str]:
        options = {
            "IdentityFile": self.folder / "user_key",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [
            self._ssh,
            "-F",
            "none",
            *words,
            "-p",
            str(self._port),
            "-T" if command else "-tt",
            "127.0.0.1",
            *command,
        ]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def _tool(name: str) -> str:
    """The path of one of OpenSSH's programs; sshd must be started by its full path."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert found, f"{name} is missing: install OpenSSH (Debian: apt-get install openssh-server openssh-client)"
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        said = log.read_text() if log.exists() else ""
        assert process.poll() is None, f"the server left with status {process.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"the server did not start within {START_S:g} s:\n{said}"
        time.sleep(0.02)
