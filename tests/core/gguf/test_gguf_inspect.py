import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from core.errors import InvalidInput
from core.gguf.header import TENSOR_TYPES, TensorInfo, read_header
from core.gguf.inspect import FILE_TYPES, falls_back, inspect_gguf, mix_block
from core.gguf.metadata import add_metadata
from tests.models import embedded_gguf

# gguf 0.19 has Q8_1 and Q8_K, which are never stored, and an older engine's list.
NEVER_STORED = {"Q8_1", "Q8_K"}


def write_small(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_chat_template("{{ messages }}")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "ü"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_int32("test.negative", -3)
    writer.add_float32("test.float", 0.25)
    writer.add_tensor("token_embd.weight", np.zeros((3, 40), np.float16))
    writer.add_tensor("output_norm.weight", np.zeros(40, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_inspect_reads_scalars_tensors_and_sizes(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf")
    info = inspect_gguf(path)
    assert (info.kind, info.architecture, info.file_type) == ("model", "llama", "F16")
    assert info.types == {"F16": 1, "F32": 1}
    assert info.parameters == 160
    assert info.bytes == path.stat().st_size
    assert info.bits_per_weight == pytest.approx(8 * (120 * 2 + 40 * 4) / 160)
    assert info.chat_template == "{{ messages }}"
    assert info.metadata["test.negative"] == -3
    assert info.metadata["test.float"] == 0.25
    assert info.metadata["tokenizer.ggml.add_bos_token"] is False
    assert read_header(path).arrays == {"tokenizer.ggml.tokens": 3, "tokenizer.ggml.scores": 2}


def test_inspect_agrees_with_the_reference_reader_on_the_embedded_base() -> None:
    info = inspect_gguf(embedded_gguf())
    reader = gguf.GGUFReader(embedded_gguf())
    assert {tensor.name: (tensor.type, tensor.bytes, tensor.shape) for tensor in info.tensors} == {
        tensor.name: (tensor.tensor_type.name, tensor.n_bytes, tuple(int(size) for size in tensor.shape))
        for tensor in reader.tensors
    }
    assert read_header(embedded_gguf()).data_start == reader.data_offset
    assert info.file_type == "Q4_1"
    assert info.chat_template is not None


def test_type_tables_are_ggmls() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name not in NEVER_STORED:
            assert TENSOR_TYPES[kind.value] == (kind.name, block, size)
    for file_type in gguf.LlamaFileType:
        if file_type.name != "GUESSED":
            assert FILE_TYPES[file_type.value] == file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_")


@pytest.mark.parametrize(
    ("name", "row", "kind", "file_type", "expected"),
    [
        ("blk.0.attn_q.weight", 576, "Q5_0", "Q4_K_M", True),
        ("blk.0.ffn_down.weight", 1536, "Q6_K", "Q4_K_M", False),
        ("token_embd.weight", 576, "Q8_0", "Q2_K", True),
        ("blk.0.attn_q.weight", 576, "Q8_0", "Q8_0", False),
        ("blk.0.attn_q.weight", 40, "F16", "Q4_K_M", True),
        ("blk.0.attn_q.weight", 40, "F16", "Q8_0", True),
        ("position_embd.weight", 576, "F32", "Q4_K_M", False),
        ("blk.0.ffn_gate_inp.weight", 576, "F16", "Q4_K_M", False),
        ("blk.0.attn_q.weight", 576, "F16", "F16", False),
        ("blk.0.attn_q.bias", 576, "Q5_0", "Q4_K_M", False),
    ],
)
def test_fallback_is_told_from_row_length_and_type(
    name: str, row: int, kind: str, file_type: str, expected: bool
) -> None:
    assert falls_back(TensorInfo(name, (row, 8), kind, 0, 0), file_type) is expected


def test_blocks_of_mixes() -> None:
    assert [mix_block(name) for name in ("Q2_K", "Q4_K_M", "IQ4_XS", "IQ4_NL", "Q8_0", "F16", "unknown")] == [
        256, 256, 256, 32, 32, 1, 1,
    ]  # fmt: skip


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write_small(tmp_path / "small.gguf").read_bytes()
    last = read_header(tmp_path / "small.gguf")
    end = max(last.data_start + tensor.offset + tensor.bytes for tensor in last.tensors)
    cut = tmp_path / "cut.gguf"
    for length in range(end):
        cut.write_bytes(whole[:length])
        with pytest.raises(InvalidInput):
            inspect_gguf(cut)
    cut.write_bytes(whole[:end])
    inspect_gguf(cut)


def test_damaged_bytes_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    whole = bytearray(write_small(tmp_path / "small.gguf").read_bytes())
    header = read_header(tmp_path / "small.gguf").tensors_end
    path, chance, refused = tmp_path / "damaged.gguf", random.Random(7), 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(header)] = chance.choice((0, 1, 9, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        path.write_bytes(damaged)
        try:
            inspect_gguf(path)
        except InvalidInput:
            refused += 1
    assert refused > 500


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


ARCHITECTURE = string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama")
ONE_TENSOR = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + ARCHITECTURE + string(b"t")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"GGU", "too short"),
        (b"PK\x03\x04" + bytes(40), "letters GGUF"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"k") + struct.pack("<IIQ", 9, 8, 2**61), "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"k") + struct.pack("<IIQ", 9, 4, 2**62), "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"k") + struct.pack("<IIQ", 9, 9, 1), "unknown type"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + ARCHITECTURE * 2, "twice"),
        (
            ONE_TENSOR + struct.pack("<IQQIQ", 2, 2**62, 2**62, 1, 0),
            "beyond the end",
        ),
        (
            ONE_TENSOR + struct.pack("<IQIQ", 1, 8, 14, 0),
            "cannot hold",
        ),
        (ONE_TENSOR + struct.pack("<IQ", 9, 1), "dimensions"),
    ],
)
def test_hostile_headers_are_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        inspect_gguf(path)


def test_a_missing_file_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        inspect_gguf(tmp_path / "none.gguf")


def test_added_metadata_leaves_the_tensors_as_they_are(tmp_path: Path) -> None:
    source = write_small(tmp_path / "small.gguf")
    add_metadata(source, tmp_path / "more.gguf", {"tara.domain": "häuser", "tara.base.sha256": "a" * 64})
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "more.gguf")
    assert after.get_field("tara.domain").contents() == "häuser"
    assert after.get_field("tara.base.sha256").contents() == "a" * 64
    assert after.get_field("tokenizer.ggml.tokens").contents() == ["a", "bc", "ü"]
    for one, other in zip(before.tensors, after.tensors, strict=True):
        assert one.name == other.name
        assert np.array_equal(one.data, other.data)
    with pytest.raises(InvalidInput, match="already has the key"):
        add_metadata(tmp_path / "more.gguf", tmp_path / "again.gguf", {"tara.domain": "x"})
