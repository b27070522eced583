"""A base's own GGUF file in a bundle: the same bytes, or a refusal."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from core.files import sha256_of
from core.tasks.context import TaskError
from tests.core.tasks.driving import drive, measured, only


def model(path: Path, *, template: str | None = "{{ messages[0]['content'] }}") -> Path:
    """A GGUF file of one rounded matrix."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    if template is not None:
        writer.add_chat_template(template)
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    stored = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", stored, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def kept(folder: Path, file: Path, identity: str) -> list[dict[str, Any]]:
    about = {"name": "own", "kind": "gguf", "path": str(file.parent), "gguf_file": file.name, "identity": identity}
    out = folder / "artifacts" / "gguf" / "own-as-is.gguf"
    return drive(folder, "keep", out, {"name": "own", "base": about}, {"gguf": folder / "not-read.gguf"})


def test_the_file_is_the_same_to_the_byte(tmp_path: Path) -> None:
    file = model(tmp_path / "own.gguf")
    events = kept(tmp_path, file, sha256_of(file))
    made = only(events, "artifact")
    assert Path(made["path"]).read_bytes() == file.read_bytes()
    assert made["sha256"] == sha256_of(file)
    assert (made["meta"]["file_type"], made["meta"]["as_is"]) == ("Q8_0", True)
    assert measured(events)["bytes"]["value"] == file.stat().st_size


def test_a_file_that_changed_or_is_gone_is_refused(tmp_path: Path) -> None:
    file = model(tmp_path / "own.gguf")
    with pytest.raises(TaskError, match=f"not the file that was planned: {sha256_of(file)[:12]}, expected dddd"):
        kept(tmp_path, file, "d" * 64)
    assert not list((tmp_path / "artifacts" / "gguf").iterdir())
    file.unlink()
    with pytest.raises(TaskError, match="the file of own, is not there"):
        kept(tmp_path, file, "d" * 64)


def test_a_file_that_cannot_be_chatted_with_is_refused(tmp_path: Path) -> None:
    file = model(tmp_path / "own.gguf", template=None)
    with pytest.raises(TaskError, match="has no chat template"):
        kept(tmp_path, file, sha256_of(file))
