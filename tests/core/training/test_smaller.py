"""The way down where memory is short."""

import pytest

from core.training.smaller import smaller, steps_down


def test_first_fewer_at_once_then_shorter() -> None:
    preset = {"batch_size": 4, "sequence_length": 128}
    assert [(one.micro_batch, one.sequence_length) for one in steps_down(preset)] == [
        (2, 128),
        (1, 128),
        (1, 64),
        (1, 32),
    ]
    assert smaller(preset, 0).says == ""
    assert smaller(preset, 1).says == "2 examples at once in place of 4"
    assert smaller(preset, 2).says == "1 example at once in place of 4"
    assert smaller(preset, 4).says == "examples cut to 32 tokens in place of 128"
    with pytest.raises(IndexError):
        smaller(preset, 5)


def test_the_smallest_has_nothing_below_it() -> None:
    assert steps_down({"batch_size": 1, "sequence_length": 32}) == []
