"""GGUF files and bundles: written by the format's own library, then damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from core.files import sha256_of
from core.hygiene import Kind, kind_of, validate_model
from tests.core.hygiene.folders import numbers


def write_gguf(path: Path, *, blocks: int = 1, file_type: int = 0, nan: bool = False, width: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_file_type(file_type)
    writer.add_chat_template("{{ messages }}")
    norm = numbers(width)
    if nan:
        norm[0] = np.nan
    writer.add_tensor("token_embd.weight", numbers(12, width))
    writer.add_tensor("blk.0.attn_q.weight", numbers(width, width))
    writer.add_tensor("output_norm.weight", norm)
    return finish(writer, path)


def write_gguf_adapter(path: Path, *, width: int = 8, target: str = "blk.0.attn_q.weight", half: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    writer.add_tensor(f"{target}.lora_a", numbers(2, width))
    if not half:
        writer.add_tensor(f"{target}.lora_b", numbers(width, 2))
    return finish(writer, path)


def finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def codes(path: Path) -> set[str]:
    return {finding.code for finding in validate_model(path).findings}


def write_bundle(folder: Path, **adapter: object) -> Path:
    base = write_gguf(folder / "base-tiny.gguf")
    lora = write_gguf_adapter(folder / "adapters" / "business.gguf", **adapter)  # type: ignore[arg-type]
    routing = folder / "routing.json"
    routing.write_text(json.dumps({"phase": 1}))

    def entry(path: Path, key: str = "file") -> dict[str, object]:
        return {key: str(path.relative_to(folder)), "sha256": sha256_of(path), "bytes": path.stat().st_size}

    manifest = {
        "format": 1,
        "phase": 1,
        "bases": {"tiny": entry(base)},
        "domains": {"business": {"base": "tiny", **entry(lora, "adapter")}},
        "routing": entry(routing),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_whole_files(tmp_path: Path) -> None:
    model, adapter = write_gguf(tmp_path / "m.gguf"), write_gguf_adapter(tmp_path / "a.gguf")
    assert kind_of(model) is Kind.GGUF
    report = validate_model(model)
    assert report.findings == ()
    assert report.facts["file_type"] == "F32"
    assert report.facts["types"] == {"F32": 3}
    assert validate_model(adapter).findings == ()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncation(tmp_path: Path, keep: float) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    assert codes(path) == {"gguf-unreadable"}


def test_wrong_magic_and_version(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    raw = path.read_bytes()
    for damaged in (b"GGML" + raw[4:], raw[:4] + b"\x63\0\0\0" + raw[8:], b""):
        path.write_bytes(damaged)
        assert codes(path) == {"gguf-unreadable"}


def test_faults_of_a_model(tmp_path: Path) -> None:
    assert codes(write_gguf(tmp_path / "layers.gguf", blocks=3)) == {"gguf-layers"}
    assert codes(write_gguf(tmp_path / "nan.gguf", nan=True)) == {"not-finite"}
    assert codes(write_gguf(tmp_path / "type.gguf", file_type=7)) == {"gguf-file-type"}
    path = write_gguf(tmp_path / "long.gguf")
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert codes(path) == {"gguf-oversized"}


def test_half_a_pair(tmp_path: Path) -> None:
    assert "pair-incomplete" in codes(write_gguf_adapter(tmp_path / "a.gguf", half=True))


def test_bundle_and_release(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "release" / "v1")
    report = validate_model(bundle)
    assert report.kind == "bundle"
    assert report.findings == ()
    assert report.facts["adapters"] == ["business"]
    assert validate_model(tmp_path / "release").kind == "release"
    (bundle / "adapters" / "business.gguf").write_bytes(b"GGUF")
    assert {finding.file for finding in validate_model(tmp_path / "release").errors} == {
        "v1/manifest.json",
        "v1/adapters/business.gguf",
    }


def test_bundle_with_a_misfit(tmp_path: Path) -> None:
    assert codes(write_bundle(tmp_path / "sizes", width=16)) == {"adapter-fits-no-base"}
    assert codes(write_bundle(tmp_path / "names", target="blk.9.attn_q.weight")) == {"adapter-fits-no-base"}
    bundle = write_bundle(tmp_path / "swapped")
    (bundle / "adapters" / "business.gguf").write_bytes((bundle / "base-tiny.gguf").read_bytes())
    assert {"gguf-kind", "manifest-differs"} <= codes(bundle)


def test_unfinished_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    (bundle / "routing.json").unlink()
    assert codes(bundle) == {"manifest-differs"}
    (bundle / "manifest.json").write_text(json.dumps({"format": 1, "phase": 1}))
    assert codes(bundle) == {"manifest-differs"}
