"""Release folders: each version whole, `current` switched in one step, and a failure leaves the target as it was."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.deploy import releases
from core.deploy.manifest import FORMAT, NAME, check_files, listed_files, read_manifest
from core.deploy.releases import active_version, check_target, put_release, switch, versions_in
from core.errors import InvalidInput, Refused
from core.files import sha256_of
from tests.imitate import tree


def make_bundle(folder: Path, phase: int = 1, content: str = "weights") -> Path:
    """A bundle of one base and one adapter."""
    (folder / "adapters").mkdir(parents=True)

    def put(name: str, text: str) -> dict[str, object]:
        (folder / name).write_text(text)
        return {"sha256": sha256_of(folder / name), "bytes": len(text)}

    manifest = {
        "format": FORMAT,
        "phase": phase,
        "bases": {"one": {"file": "base-one.gguf", **put("base-one.gguf", content)}},
        "domains": {"a": {"adapter": "adapters/a.gguf", **put("adapters/a.gguf", "small")}},
        "routing": {"file": "routing.json", **put("routing.json", "{}")},
    }
    (folder / NAME).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "target"


def test_a_release_is_put_and_made_current(bundle: Path, target: Path) -> None:
    steps: list[tuple[int, int]] = []
    check_target(target, 1)
    folder = put_release(bundle, target, 1, lambda done, total: steps.append((done, total)))
    assert folder == target / "versions" / "1"
    assert tree(folder) == tree(bundle)
    assert (versions_in(target), active_version(target)) == ([1], 1)
    assert os.readlink(target / "current") == "versions/1"  # relative: the target may be moved
    assert steps[-1][0] == steps[-1][1] == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    check_target(target, 1)
    check_files(folder, read_manifest(folder))


def test_a_copy_shares_nothing_with_its_bundle(bundle: Path, target: Path) -> None:
    folder = put_release(bundle, target, 1)
    (bundle / "base-one.gguf").write_text("changed")
    check_files(folder, read_manifest(folder))


def test_switching_there_and_back(bundle: Path, target: Path, tmp_path: Path) -> None:
    put_release(bundle, target, 1)
    put_release(make_bundle(tmp_path / "second", content="other"), target, 2)
    assert (versions_in(target), active_version(target)) == ([1, 2], 2)
    switch(target, 1)
    assert active_version(target) == 1
    before = tree(target)
    with pytest.raises(InvalidInput, match="has no version 3"):
        switch(target, 3)
    with pytest.raises(Refused, match="exists already"):
        put_release(bundle, target, 2)
    assert tree(target) == before


def test_what_a_killed_deployment_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """A pid that is no process is that of a deployment that was killed; this very process's may be at work."""
    target, bundle = tmp_path / "out", make_bundle(tmp_path / "bundle")
    dead, living = (target / "versions" / f".tmp-{pid}-1" for pid in (2**22 + 1, os.getpid()))
    for folder in (dead, living):
        folder.mkdir(parents=True)
    put_release(bundle, target, 2)
    assert (dead.exists(), living.exists()) == (False, True)


def test_what_current_leads_to_must_be_there(bundle: Path, target: Path) -> None:
    put_release(bundle, target, 1)
    shutil.rmtree(target / "versions" / "1")
    assert active_version(target) is None
    (target / "current").unlink()
    assert active_version(target) is None


def tampered(bundle: Path) -> type[Exception]:
    (bundle / "adapters" / "a.gguf").write_text("SMALL")
    return InvalidInput


def shortened(bundle: Path) -> type[Exception]:
    (bundle / "base-one.gguf").write_text("")
    return InvalidInput


def incomplete(bundle: Path) -> type[Exception]:
    (bundle / "routing.json").unlink()
    return FileNotFoundError


@pytest.mark.parametrize("spoil", [tampered, shortened, incomplete])
@pytest.mark.parametrize("first", [True, False])
def test_a_bundle_that_differs_is_not_released(
    bundle: Path, target: Path, tmp_path: Path, spoil: Callable[[Path], type[Exception]], first: bool
) -> None:
    if not first:
        put_release(bundle, target, 1)
    else:
        target.parent.mkdir()
    before = tree(tmp_path / "place")
    with pytest.raises(spoil(bundle)):
        put_release(bundle, target, 2)
    assert tree(tmp_path / "place") == before


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("where", ["copyfile", "progress", "replace", "symlink"])
def test_a_failure_in_the_middle_leaves_the_target(
    bundle: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, first: bool
) -> None:
    if not first:
        put_release(bundle, target, 1)
    else:
        target.mkdir(parents=True)
    before = tree(tmp_path / "place")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "copyfile":
            patch.setattr(shutil, "copyfile", fail)
        elif where != "progress":
            patch.setattr(os, where, fail)
        with pytest.raises(KeyboardInterrupt if where == "progress" else OSError):
            put_release(bundle, target, 2, stop if where == "progress" else lambda done, total: None)
    assert tree(tmp_path / "place") == before
    put_release(bundle, target, 2)
    assert active_version(target) == 2


def test_a_folder_in_the_links_place_is_kept(bundle: Path, target: Path) -> None:
    put_release(bundle, target, 1)
    (target / "current").unlink()
    (target / "current").mkdir()
    before = tree(target)
    with pytest.raises(OSError, match="directory"):
        put_release(bundle, target, 2)
    assert tree(target) == before


def test_targets_that_cannot_hold_releases(bundle: Path, target: Path, tmp_path: Path) -> None:
    put_release(bundle, target, 1)
    with pytest.raises(Refused, match="holds the releases of phase 1"):
        check_target(target, 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(Refused, match="not empty and holds no releases"):
        check_target(tmp_path / "full", 1)
    (tmp_path / "full" / "versions").mkdir()
    with pytest.raises(Refused, match="not empty and holds no releases"):
        check_target(tmp_path / "full", 1)
    with pytest.raises(InvalidInput, match="not a folder"):
        check_target(tmp_path / "full" / "thesis.txt", 1)
    with pytest.raises(InvalidInput, match=r"thesis\.txt is not a folder"):
        check_target(tmp_path / "full" / "thesis.txt" / "below", 1)
    check_target(tmp_path / "new" / "deeper", 1)
    assert not (tmp_path / "new").exists()


def test_a_target_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(releases.os, "access", lambda path, mode: False)
    with pytest.raises(InvalidInput, match="is not writable"):
        check_target(tmp_path, 1)
    with pytest.raises(InvalidInput, match=f"{tmp_path} is not writable"):
        check_target(tmp_path / "new", 1)


def test_what_a_killed_first_deployment_leaves_is_no_obstacle(bundle: Path, target: Path) -> None:
    (target / "versions" / ".tmp-99-1").mkdir(parents=True)
    (target / "versions" / ".tmp-99-1" / "base-one.gguf").touch()
    check_target(target, 1)
    put_release(bundle, target, 1)
    check_target(target, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read"), ("[1]", "format None"), ('{"format": 99}', "format 99, this program reads 1")],
)
def test_manifests_that_cannot_be_read(bundle: Path, text: str, words: str) -> None:
    (bundle / NAME).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        read_manifest(bundle)


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a bundle or release"):
        read_manifest(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="not a bundle or release"):
        read_manifest(tmp_path / "file")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "adapters/../../outside"])
def test_a_manifest_may_not_name_files_elsewhere(bundle: Path, target: Path, name: str) -> None:
    manifest = read_manifest(bundle)
    manifest["bases"]["one"]["file"] = name
    (bundle / NAME).write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="outside its folder"):
        put_release(bundle, target, 1)
    assert not target.exists()


def test_a_manifest_that_lacks_something(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    del manifest["domains"]["a"]["sha256"]
    with pytest.raises(InvalidInput, match="not whole"):
        listed_files(manifest)
    del manifest["domains"]
    with pytest.raises(InvalidInput, match="not whole"):
        listed_files(manifest)
