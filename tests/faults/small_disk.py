"""A small disk of its own for a workspace, where the kernel allows one to be mounted, and filling it for a while."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "TARA_FAULTS_DISK"  # set inside: what the workspace lies on
FILLER = "filler"
_BLOCK = 1 << 20
_MOUNT = 'mount -t tmpfs -o size="$0"m tara-small-disk "$1" && shift && exec "$@"'


def small_disk(folder: Path, megabytes: int) -> tuple[list[str] | None, str]:
    """The words before a command that have it run where `folder` is a tmpfs of a size of its own, seen by it and its
    descendants alone; None where the kernel refuses that. And a phrase on which of the two it is."""
    refused = ""
    folder.mkdir(parents=True, exist_ok=True)
    for how in (["unshare", "-m"], ["unshare", "-rm"]):  # as root, or as the root of a user namespace
        words = [*how, "sh", "-c", _MOUNT, str(megabytes), str(folder)]
        try:
            tried = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            refused = str(error)
            continue
        if tried.returncode == 0:
            return words, f"a tmpfs of {megabytes} MB by {' '.join(how)}"
        refused = " ".join(tried.stderr.split()) or f"exit {tried.returncode}"
    return None, f"not run: no small disk can be mounted here ({refused})"


def on_small_disk() -> bool:
    """Whether this process was started on one."""
    return os.environ.get(VARIABLE, "not run").startswith("a tmpfs")


@contextmanager
def filled(root: Path, leave: int) -> Iterator[int]:
    """Inside, all but about `leave` bytes of the disk are taken; 0: to the last byte. Gives the bytes taken."""
    path = root / FILLER
    taken = 0
    try:
        with open(path, "wb", buffering=0) as stream:
            while (room := shutil.disk_usage(root).free - leave) > 0:
                try:
                    taken += stream.write(bytes(min(_BLOCK, room)))
                except OSError:
                    break  # others were faster with the last of it
        yield taken
    finally:
        path.unlink(missing_ok=True)
