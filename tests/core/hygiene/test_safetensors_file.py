"""Headers of safetensors files: real ones read as they are, damaged ones refused with a reason."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from core.hygiene.reading import Malformed
from core.hygiene.safetensors_file import TensorInfo, read_floats, read_header, scan_tensor, write_tensors


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.arange(6, dtype=np.float16).reshape(2, 3), "y": np.zeros(4, np.int64)}, path)
    header = read_header(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {
        "x": ("F16", (2, 3)),
        "y": ("I64", (4,)),
    }
    assert read_floats(path, header["x"]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_truncation_is_found_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.ones((3, 5), np.float32)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Malformed):
            read_header(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Malformed, match="does not declare"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "does not fit its shape"),
        ({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "whole numbers"),
        ({"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "whole numbers"),
        ({"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "unknown type"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "hole or an overlap"),
        ({"x": {"dtype": "F32", "shape": [1]}}, "incompletely"),
        ({"x": None}, "incompletely"),
        ([], "not an object"),
        (
            {
                "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            "overlap",
        ),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: object, reason: str) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(Malformed, match=reason):
        read_header(path)


def test_huge_header_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(Malformed, match="makes no sense"):
        read_header(path)


@pytest.mark.parametrize(
    ("dtype", "raw", "bad"),
    [
        ("F32", np.array([1, np.nan, np.inf, 0], np.float32).tobytes(), 2),
        ("F16", np.array([1, -np.inf], np.float16).tobytes(), 1),
        ("BF16", np.array([0x3F80, 0x7FC0, 0xFF80, 0x7F7F], np.uint16).tobytes(), 2),
        ("F8_E4M3", bytes([0x7F, 0xFF, 0x7E]), 2),
        ("F8_E5M2", bytes([0x7C, 0x7B]), 1),
        ("I8", bytes([127, 255]), 0),
    ],
)
def test_not_finite_numbers_are_counted(tmp_path: Path, dtype: str, raw: bytes, bad: int) -> None:
    count = len(raw) // {"F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": (dtype, (count,), raw)})
    scan = scan_tensor(path, read_header(path)["x"])
    assert (scan.checked, scan.bad, scan.any_nonzero) == (count, bad, True)


def test_sampling_reads_less_and_reaches_both_ends(tmp_path: Path) -> None:
    values = np.zeros(100_000, np.float32)
    values[-1] = np.nan
    path = tmp_path / "a.safetensors"
    save_file({"x": values}, path)
    scan = scan_tensor(path, read_header(path)["x"], limit=800)
    assert scan.checked == 800
    assert scan.bad == 1


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": ("BF16", (2,), np.array([0x3F80, 0xC000], np.uint16).tobytes())})
    assert read_floats(path, read_header(path)["x"]).tolist() == [1.0, -2.0]


def test_the_library_reads_what_is_written_here(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = np.arange(4, dtype=np.float32)
    write_tensors(path, {"x": ("F32", (2, 2), values.tobytes()), "e": ("F32", (0,), b"")})
    with safe_open(path, framework="numpy") as opened:
        assert opened.get_tensor("x").tolist() == [[0, 1], [2, 3]]
    assert scan_tensor(path, TensorInfo("e", "F32", (0,), 0, 0)).checked == 0
