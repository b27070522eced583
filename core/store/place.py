"""Where state.db lies: a file system of this machine, or one of the network, where SQLite's WAL does not hold.

"All processes using a database must be on the same host computer; WAL does not work over a network filesystem"
(sqlite.org/wal.html). There two machines would each believe that they are alone.
"""

import re
from pathlib import Path

from core.errors import EnvironmentLacks

MOUNTS = Path("/proc/self/mountinfo")
OF_THE_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.cephfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
        "fuse.rclone", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3",
        "smbfs",
    }
)  # fmt: skip


def file_system_of(path: Path, mounts: Path = MOUNTS) -> tuple[str, str] | None:
    """Kind and mount point of the file system a path lies on, whether it exists yet or not; None where the kernel does
    not tell."""
    try:
        lines = mounts.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    best: tuple[str, str] | None = None
    for line in lines:
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        # Of two at the same point the later one covers the earlier.
        if place.is_relative_to(point) and (best is None or len(point) >= len(best[1])):
            best = after.split()[0], point
    return best


def check_place(path: Path, mounts: Path = MOUNTS) -> None:
    """Raises EnvironmentLacks where a store at `path` would lie on a file system of the network."""
    found = file_system_of(path, mounts)
    if found is not None and found[0] in OF_THE_NETWORK:
        kind, point = found
        raise EnvironmentLacks(
            f"{path} would lie on a network file system ({kind}, mounted on {point}), where the store is not safe",
            "make the workspace on a disk of the machine that trains, and reach it by SSH",
        )
