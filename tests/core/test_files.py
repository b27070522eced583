"""Files are whole or not there, and manifests tell every difference."""

import json
import os
from pathlib import Path

import pytest

from core.errors import InvalidInput
from core.files import (
    MANIFEST,
    check_manifest,
    discard,
    hash_json,
    left_beside,
    scratch_beside,
    sha256_of,
    staging_beside,
    sync_tree,
    write_atomically,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "deep").mkdir(parents=True)
    (made / "one").write_bytes(b"1")
    (made / "deep" / "two").write_bytes(b"22")
    return made


def test_write_atomically_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "größer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_staging_names_lie_beside_and_are_told_as_garbage(tmp_path: Path) -> None:
    staged = staging_beside(tmp_path / "target")
    assert staged.parent == tmp_path
    assert staged.name.startswith(".tmp-")
    assert staged != tmp_path / "target"


def test_discard_takes_links_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    discard(link)
    assert (folder / "one").exists()
    discard(folder)
    discard(folder)
    assert not folder.exists()


def test_sync_tree_passes_broken_links(folder: Path) -> None:
    (folder / "broken").symlink_to("nowhere")
    sync_tree(folder)
    assert (folder / "broken").is_symlink()


def test_equal_values_have_equal_hashes() -> None:
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": "1"})
    assert hash_json(["ä"]) != hash_json(["a"])


def test_a_manifest_lists_every_file(folder: Path) -> None:
    (folder / "deep" / MANIFEST).write_text("{}")  # only the folder's own is left out
    digest, size = write_manifest(folder, {"kind": "test"})
    manifest = check_manifest(folder)
    assert manifest["kind"] == "test"
    assert set(manifest["files"]) == {"one", "deep/two", f"deep/{MANIFEST}"}
    assert size == 5
    assert digest == sha256_of(folder / MANIFEST)
    assert write_manifest(folder, {"kind": "test"}) == (digest, size)


def test_a_manifest_tells_what_is_missing_or_differs(folder: Path) -> None:
    write_manifest(folder, {})
    (folder / "one").write_bytes(b"2")
    check_manifest(folder, hashes=False)
    with pytest.raises(InvalidInput, match=r"one differs"):
        check_manifest(folder)
    (folder / "one").write_bytes(b"11")
    with pytest.raises(InvalidInput, match=r"one differs"):
        check_manifest(folder, hashes=False)
    (folder / "one").unlink()
    with pytest.raises(InvalidInput, match=r"one is missing"):
        check_manifest(folder)


def test_a_folder_without_manifest_was_not_finished(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="not finished"):
        check_manifest(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"files": []}', '{"files": {"one": 1}}', '{"files": {"one": {"bytes": 1}}}']
)
def test_a_damaged_manifest_is_named(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InvalidInput, match=f"{MANIFEST} cannot be read"):
        check_manifest(folder)


def test_a_manifest_is_plain_json(folder: Path) -> None:
    write_manifest(folder, {"kind": "test"})
    assert json.loads((folder / MANIFEST).read_text())["files"]["one"]["bytes"] == 1


def test_what_was_left_of_making_something_is_known_by_its_name(tmp_path: Path) -> None:
    target = tmp_path / "a.[b]-0badcafe"
    left = [staging_beside(target), scratch_beside(target), tmp_path / f".tmp-7-{target.name}"]
    others = [target, tmp_path / ".tmp-7-x", tmp_path / f".tmp-7-8-{target.name}", tmp_path / f".tmp-7-{target.name}x"]
    for path in (*left, *others):
        path.mkdir()
    assert left_beside(target) == sorted(left)
    assert left_beside(tmp_path / "nowhere" / "x") == []
