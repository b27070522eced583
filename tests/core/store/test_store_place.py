"""A store on a network file system is refused, by the mount that really holds it."""

from pathlib import Path

import pytest

from core.errors import EnvironmentLacks
from core.store import engine, place
from core.store.engine import open_store
from core.store.place import check_place, file_system_of
from core.workspace import Workspace

LINES = """22 1 0:20 / / rw,relatime - ext4 /dev/root rw
30 22 0:30 / {mount} rw,relatime shared:1 - {kind} server:/export rw,vers=4.2
31 30 0:31 / {mount}/local\\040disk rw - xfs /dev/sdb rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    return tmp_path / "mountinfo"


def test_the_innermost_mount_counts(tmp_path: Path, mounts: Path) -> None:
    share = tmp_path / "share"
    mounts.write_text(LINES.format(mount=share, kind="nfs4"))
    assert file_system_of(tmp_path / "state.db", mounts) == ("ext4", "/")
    assert file_system_of(share / "work" / "state.db", mounts) == ("nfs4", str(share))
    assert file_system_of(share / "local disk" / "state.db", mounts) == ("xfs", f"{share}/local disk")
    assert file_system_of(tmp_path, tmp_path / "absent") is None


def test_a_link_does_not_hide_the_network(tmp_path: Path, mounts: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "share")
    mounts.write_text(LINES.format(mount=tmp_path / "share", kind="fuse.sshfs"))
    with pytest.raises(EnvironmentLacks, match=r"network file system \(fuse\.sshfs, mounted on .*share\)"):
        check_place(tmp_path / "here" / "state.db", mounts)


@pytest.mark.parametrize("kind", sorted(place.OF_THE_NETWORK))
def test_a_store_there_is_neither_made_nor_opened(
    tmp_path: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts.write_text(LINES.format(mount=tmp_path / "share", kind=kind))
    monkeypatch.setattr(engine, "check_place", lambda path: check_place(path, mounts))
    (tmp_path / "share").mkdir()
    workspace = Workspace(tmp_path / "share")
    with pytest.raises(EnvironmentLacks, match="not safe"):
        open_store(workspace)
    assert list((tmp_path / "share").iterdir()) == []


def test_this_machines_disks_will_do(tmp_path: Path) -> None:
    check_place(tmp_path / "state.db")
