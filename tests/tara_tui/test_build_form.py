"""What the lines of the build form ask for."""

import pytest

from core.errors import TaraError
from core.phases.kinds import TargetWish
from core.phases.merging import MergeWish
from core.phases.service import Asked
from tara_tui.build_form import asked_of

EMPTY = dict.fromkeys(("quantization", "compression", "merge", "method", "margin", "repair", "threshold"), "")


@pytest.mark.parametrize(
    ("line", "technique", "target"),
    [
        ("", None, None),  # as the phase is set
        ("hybrid 100", "hybrid", 100.0),
        (" sparse 80 MB ", "sparse", 80.0),
        ("hybrid", "hybrid", "none"),  # the number that stood there was taken out
    ],
)
def test_a_technique_without_a_number_has_no_target_size(line: str, technique: str | None, target: TargetWish) -> None:
    asked = asked_of({**EMPTY, "compression": line})
    assert asked.quality_threshold is None
    assert (asked.compression_type, asked.target_size_mb) == (technique, target)


def test_a_least_quality_is_a_number() -> None:
    assert asked_of({**EMPTY, "threshold": " 0.6 "}, "a demonstration") == Asked(
        quality_threshold=0.6, override_quality="a demonstration", merge=MergeWish()
    )
    with pytest.raises(TaraError, match="a least quality is a number, not 'high'"):
        asked_of({**EMPTY, "threshold": "high"})
