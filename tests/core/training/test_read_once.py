"""What is remembered while a GGUF base is read is forgotten afterwards, and is what the package itself says."""

import gguf
import pytest

from core.training.read_once import read_once


def test_the_package_is_as_it_was_even_after_an_error() -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(RuntimeError, match="broken"), read_once():
        raise RuntimeError("broken" if gguf.get_tensor_name_map is not before[1] else "nothing is remembered")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_it_is_asked_once_for_each_set_of_arguments() -> None:
    plain = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    with read_once():
        first = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is first
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3) is not first
    assert first.mapping == plain.mapping
