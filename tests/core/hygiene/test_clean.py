"""A clean copy: garbage gone, fixes in the copy only, the source as it was, nothing half-made left behind."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from core.errors import InvalidInput, Refused
from core.files import check_manifest, write_manifest
from core.hygiene import NotClean, clean, plan_clean, validate_model
from core.hygiene.fixes import find_fixes
from tests.core.hygiene.folders import (
    RANK,
    adapter_tensors,
    edit_json,
    numbers,
    snapshot,
    write_adapter,
    write_json,
    write_model,
    write_sharded,
)


def make_dirty(folder: Path) -> Path:
    write_adapter(folder)
    for name in ("checkpoint-100/adapter_model.safetensors", "logs/a.txt", ".git/HEAD", "train.log", "optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    (folder / "docs").mkdir()
    (folder / "docs" / "notes.md").write_text("kept")
    return folder


def test_clean_adapter(tmp_path: Path) -> None:
    source = make_dirty(tmp_path / "a")
    before = snapshot(source)
    seen: list[tuple[int, int]] = []
    result = clean(source, tmp_path / "out" / "b", lambda done, total, name: seen.append((done, total)))
    output = tmp_path / "out" / "b"
    assert snapshot(source) == before
    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} == {
        "adapter_config.json", "adapter_model.safetensors", "docs/notes.md", "clean_report.json", "MANIFEST.json",
    }  # fmt: skip
    assert result.plan.kind == "checkpoint"  # the optimizer made it one
    assert check_manifest(output)["kind"] == "adapter"
    assert validate_model(output).findings == ()
    report = json.loads((output / "clean_report.json").read_text())
    assert {entry["path"]: bool(entry["reason"]) for entry in report["dropped"]} == dict.fromkeys(
        ["checkpoint-100/adapter_model.safetensors", "logs/a.txt", ".git/HEAD", "train.log", "optimizer.pt"], True
    )
    assert report["bytes_before"] - report["bytes_after"] == 25
    assert report["validation"]["ok"] is True
    assert seen[-1] == (result.plan.bytes_after, result.plan.bytes_after)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


def test_cleaning_twice_writes_a_new_manifest(tmp_path: Path) -> None:
    clean(make_dirty(tmp_path / "a"), tmp_path / "b")
    result = clean(tmp_path / "b", tmp_path / "c")
    assert {entry.path for entry in result.plan.dropped} == {"MANIFEST.json", "clean_report.json"}
    check_manifest(tmp_path / "c")


def test_refused_outputs_leave_everything_as_it_was(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "way-in").symlink_to(source)
    before = snapshot(tmp_path)
    for output in (source, source / "inner", tmp_path / "full", tmp_path / "file", tmp_path, tmp_path / "way-in" / "x"):
        with pytest.raises(Refused):
            clean(source, output)
    for wrong in (tmp_path / "file", tmp_path / "full"):
        with pytest.raises(InvalidInput):
            plan_clean(wrong, tmp_path / "new")
    assert snapshot(tmp_path) == before


def test_an_empty_output_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    clean(write_adapter(tmp_path / "a"), tmp_path / "b")
    assert validate_model(tmp_path / "b").ok


def test_links(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a")
    (tmp_path / "secret.txt").write_text("secret")
    (source / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (source / "outside").symlink_to(tmp_path)
    (source / "broken.txt").symlink_to(source / "nothing")
    (source / "loop").symlink_to(source / "loop")
    (source / "docs").mkdir()
    (source / "docs" / "copy.json").symlink_to("../adapter_config.json")
    os.mkfifo(source / "pipe")
    result = clean(source, tmp_path / "b")
    reasons = {entry.path: entry.reason for entry in result.plan.dropped}
    assert set(reasons) == {"outside.txt", "outside", "broken.txt", "loop", "pipe"}
    assert "leads outside" in reasons["outside.txt"]
    assert reasons["pipe"] == "not a regular file"
    assert {finding.code for finding in result.plan.warnings} == {"link-not-followed"}
    copied = tmp_path / "b" / "docs" / "copy.json"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (source / "adapter_config.json").read_bytes()


def test_weights_behind_an_outside_link_are_not_taken(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    (source / "model.safetensors").rename(tmp_path / "blob")
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(NotClean, match="no weights") as caught:
        clean(source, tmp_path / "b")
    assert {finding.code for finding in caught.value.report.errors} == {"weights-missing"}
    assert {path.name for path in tmp_path.iterdir()} == {"m", "blob"}


def test_what_stays_broken_is_not_kept(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a")
    path = source / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(NotClean, match="cut off"):
        clean(source, tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_redundant_pickles_are_left_out_and_lone_ones_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    (source / "pytorch_model.bin").write_bytes(b"x")
    result = clean(source, tmp_path / "b")
    assert [entry.path for entry in result.plan.dropped] == ["pytorch_model.bin"]
    (source / "model.safetensors").unlink()
    with pytest.raises(NotClean, match="pickle"):
        clean(source, tmp_path / "c")


def test_a_source_that_differs_from_its_manifest_is_said(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a")
    write_manifest(source, {})
    edit_json(source / "adapter_config.json", lora_alpha=8)
    assert [finding.code for finding in plan_clean(source, tmp_path / "b").warnings] == ["source-manifest-differs"]


def test_pad_token_comes_from_the_tokenizer(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "tokenizer_config.json", pad_token=...)
    edit_json(source / "config.json", pad_token_id=...)
    write_json(source / "special_tokens_map.json", {"eos_token": {"content": "</s>"}})
    write_json(source / "generation_config.json", {"eos_token_id": 1})
    result = clean(source, tmp_path / "b")
    assert {(one.file, one.key): one.new for one in result.fixes.changes} == {
        ("tokenizer_config.json", "pad_token"): "</s>",
        ("special_tokens_map.json", "pad_token"): "</s>",
        ("config.json", "pad_token_id"): 1,
        ("generation_config.json", "pad_token_id"): 1,
    }
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["pad_token"] == "</s>"
    assert json.loads((tmp_path / "b" / "config.json").read_text())["pad_token_id"] == 1
    assert "pad_token" not in json.loads((source / "tokenizer_config.json").read_text())
    assert result.report.findings == ()


def test_pad_token_named_by_the_config_wins(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "tokenizer_config.json", pad_token=...)
    (change,) = find_fixes(source).changes
    assert (change.key, change.new) == ("pad_token", "<pad>")


def test_pad_token_is_never_invented(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "config.json", pad_token_id=..., eos_token_id=...)
    edit_json(source / "tokenizer_config.json", pad_token=..., eos_token=...)
    fixes = find_fixes(source)
    assert fixes.changes == ()
    assert {one.code for one in fixes.cannot} == {"eos-token-missing", "pad-token-missing"}
    edit_json(source / "tokenizer_config.json", eos_token="<not-in-vocabulary>")
    assert find_fixes(source).changes == ()


def test_length_from_the_config(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "tokenizer_config.json", model_max_length=10**30)
    (change,) = find_fixes(source).changes
    assert (change.key, change.new, change.reason) == ("model_max_length", 64, "max_position_embeddings in config.json")


def test_incomplete_config_is_derived_from_tensors(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    original = json.loads((source / "config.json").read_text())
    gone = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "architectures",
    )
    edit_json(source / "config.json", **dict.fromkeys(gone, ...))
    assert not validate_model(source).ok
    result = clean(source, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == original
    assert {one.key for one in result.fixes.changes} == set(gone)


def test_heads_are_not_guessed(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "config.json", num_attention_heads=..., head_dim=...)
    fixes = find_fixes(source)
    assert [one.key for one in fixes.cannot] == ["num_attention_heads"]
    with pytest.raises(NotClean, match="num_attention_heads"):
        clean(source, tmp_path / "b")


def test_model_type_from_the_class_and_vocabulary_from_the_embedding(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    edit_json(source / "config.json", model_type=..., vocab_size=50)
    result = clean(source, tmp_path / "b")
    assert {one.key: (one.old, one.new) for one in result.fixes.changes} == {
        "model_type": (None, "llama"),
        "vocab_size": (50, 12),
    }


def test_shard_index_is_rebuilt(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "s", index=False)
    clean(source, tmp_path / "b")
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    expected = json.loads((write_sharded(tmp_path / "t") / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == expected["weight_map"]
    shard = source / "model-00001-of-00002.safetensors"
    shard.write_bytes(b"damaged")
    assert "is damaged" in find_fixes(source).cannot[0].reason
    with pytest.raises(NotClean):
        clean(source, tmp_path / "c")
    shard.unlink()
    assert [one.code for one in find_fixes(source).cannot] == ["shard-missing"]


def test_adapter_settings_from_tensors_and_provenance(tmp_path: Path) -> None:
    source = write_adapter(
        tmp_path / "a", base_model_name_or_path=..., r=..., lora_alpha=..., target_modules=..., peft_type=...
    )
    assert {one.key for one in find_fixes(source).cannot} == {"base_model_name_or_path", "lora_alpha"}
    write_json(source / "tara.json", {"base": {"name": "tiny", "sha256": "x"}, "preset": {"lora_alpha": 4}})
    clean(source, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (RANK, 4, "LORA")
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_scale_is_folded_without_changing_the_adapter(tmp_path: Path) -> None:
    tensors = {key: value.astype(np.float16) if "v_proj" in key else value for key, value in adapter_tensors().items()}
    alphas = {"layers.1.self_attn.q_proj": 10}
    source = write_adapter(tmp_path / "a", tensors, use_rslora=True, alpha_pattern=alphas)
    result = clean(source, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["alpha_pattern"]) == (False, {})
    assert result.report.findings == ()
    folded = load_file(tmp_path / "b" / "adapter_model.safetensors")
    for name, old in tensors.items():
        if "lora_A" in name:
            assert np.array_equal(folded[name], old)
            continue
        alpha = 10 if "layers.1.self_attn.q_proj" in name else 4
        expected = old.astype(np.float64) * alpha / np.sqrt(RANK)
        np.testing.assert_allclose(folded[name] * (4 / RANK), expected, rtol=1e-6)


def test_what_cannot_be_carried_is_said(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    source = write_adapter(tmp_path / "a", {**adapter_tensors(), name: numbers(8)}, use_dora=True, use_rslora=True)
    fixes = find_fixes(source)
    assert fixes.changes == ()
    assert [one.code for one in fixes.cannot] == ["gguf-dora"]
    assert "merged into its base" in fixes.cannot[0].reason
    path = source / "adapter_model.safetensors"
    path.write_bytes(b"short")
    assert [one.code for one in find_fixes(source).cannot] == ["adapter-unreadable"]
