"""The rule by which ways to build are put in order, and the estimates it falls back on."""

import math
from dataclasses import replace

import pytest

from core.errors import InvalidInput
from core.phases.anchors import ANCHORS, Known, anchor_for, budget_kl, mixed_kl, plain_kl, top_share
from core.phases.choices import DRY_RUN, ESTIMATED, MEASURED, Bounds, Choice, Figure, Ranked, rank
from core.phases.model_figures import combined
from core.phases.recommending import parse_quality


def choice(name: str, megabytes: float, kl: float, same_top: float, **more: object) -> Choice:
    def figure(value: float) -> Figure:
        return Figure(value, ESTIMATED, "made up")

    quantization, technique = name.split()
    made = Choice(
        technique, quantization, bytes=figure(megabytes * 1e6), largest=figure(megabytes * 1e6),
        memory=figure(megabytes * 1e6 + 2e8), speed=figure(5000 / megabytes), kl=figure(kl), same_top=figure(same_top),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


Q2 = choice("Q2_K standard", 88, 0.66, 0.48)
Q4 = choice("Q4_K_M standard", 105, 0.088, 0.79)
Q4_MIXED = choice("Q4_K_M hybrid", 105, 0.05, 0.85)
Q8 = choice("Q8_0 standard", 145, 0.005, 0.93)
Q8_MIXED = choice("Q8_0 hybrid", 145, 0.00501, 0.93)
SPARSE = Choice("sparse", "Q4_K_M", cannot="not available in this version")
ALL = [SPARSE, Q2, Q8_MIXED, Q4, Q4_MIXED, Q8]


def names(rows: list[Ranked]) -> list[str]:
    return [row.choice.name for row in rows]


def test_the_best_quality_that_fits_is_recommended_and_of_two_alike_the_simpler() -> None:
    rows = rank(ALL, Bounds())
    assert names(rows) == [
        "Q8_0 standard", "Q8_0 hybrid", "Q4_K_M hybrid", "Q4_K_M standard", "Q2_K standard", "Q4_K_M sparse"
    ]  # fmt: skip
    assert [row.recommended for row in rows] == [True, False, False, False, False, False]
    assert rows[0].why == "least KL among what fits"
    assert rows[1].why == "fits; as good as Q8_0 standard, which is simpler"
    assert rows[2].why == "fits; 10.0 times its KL"
    assert (rows[-1].fits, rows[-1].why) == (False, "not available in this version")


def test_what_is_not_known_is_not_taken_for_as_good_as_what_is() -> None:
    blind = replace(Q2, technique="sparse", kl=None, same_top=None, bytes=Figure(60e6, DRY_RUN), largest=Q2.largest)
    for bounds in (Bounds(), Bounds(speed=True), Bounds(target=200 * 10**6)):
        rows = rank([blind, Q8, Q2], bounds)
        assert names(rows)[-1] == "Q2_K sparse"
        assert (rows[-1].fits, rows[-1].why) == (True, "fits; what it loses is not known before it is built")
    (only,) = rank([replace(blind, there=True)], Bounds())
    assert (only.recommended, only.why) == (True, "nothing of known quality fits; what this loses is not measured")
    (bound,) = rank([blind], Bounds(kl=9.0))
    assert (bound.fits, bound.why) == (False, "its KL is not known before it is built")


def test_what_is_too_large_is_never_first() -> None:
    rows = rank(ALL, Bounds(target=110 * 10**6))
    assert names(rows)[:3] == ["Q4_K_M hybrid", "Q4_K_M standard", "Q2_K standard"]
    over = next(row for row in rows if row.choice is Q8)
    assert (over.fits, over.why) == (False, "31.8% over the target of 110 MB")
    assert over.misses == (pytest.approx(145 / 110 - 1),)


def test_with_a_bound_on_quality_the_smallest_that_keeps_it() -> None:
    rows = rank(ALL, Bounds(kl=0.1))
    assert names(rows)[0] == "Q4_K_M standard"  # as large as the mixture, and simpler
    assert rows[0].why == "smallest that keeps the quality asked for"
    assert next(row for row in rows if row.choice is Q2).why == "KL above 0.1"
    assert names(rank(ALL, Bounds(same_top=0.8)))[0] == "Q4_K_M hybrid"
    assert names(rank(ALL, Bounds(same_top=0.8, target=150 * 10**6)))[0] == "Q8_0 standard"


def test_speed_is_weighed_and_not_all_that_counts() -> None:
    rows = rank(ALL, Bounds(speed=True))
    assert names(rows)[0] == "Q4_K_M hybrid"  # 0.85 * sqrt(88 / 105) against 0.93 * sqrt(88 / 145) and 0.48
    assert names(rows)[-2] == "Q2_K standard"


def test_where_nothing_fits_nothing_is_recommended_and_the_nearest_comes_first() -> None:
    rows = rank(ALL, Bounds(target=80 * 10**6, memory=10**9))
    assert not any(row.recommended or row.fits for row in rows)
    assert rows[0].choice is Q2
    rows = rank(ALL, Bounds(memory=250 * 10**6, memory_of="free now"))
    assert rows[0].choice is Q2
    assert rows[0].why == "memory: 288 MB of 250 MB free now"


def test_what_is_not_known_keeps_no_bound() -> None:
    blind = replace(Q4, kl=None, same_top=None, memory=None, largest=None)
    for bounds in (Bounds(kl=1.0), Bounds(same_top=0.1), Bounds(memory=10**12), Bounds(target=10**12)):
        (row,) = rank([blind], bounds)
        assert (row.fits, row.misses) == (False, (math.inf,))
    assert rank([blind], Bounds())[0].recommended
    (row,) = rank([replace(Q4, lacks="disk: needs 5 MB")], Bounds())
    assert (row.fits, row.why) == (False, "cannot be built here: disk: needs 5 MB")


def test_qualities_are_shares_or_divergences() -> None:
    assert parse_quality(None) == parse_quality(" ") == (None, None)
    assert parse_quality("0.95") == (0.95, None)
    assert parse_quality("kl:0.05") == parse_quality("KL0.05") == parse_quality("0.05kl") == (None, 0.05)
    for wrong in ("good", "1.5", "kl:", "kl:0", "kl:nan", "-1"):
        with pytest.raises(InvalidInput):
            parse_quality(wrong)


def test_estimates_come_from_the_model_nearest_in_size_and_what_was_measured() -> None:
    small, large = ANCHORS
    assert (anchor_for(3e8), anchor_for(3e9)) == (small, large)
    for anchor in ANCHORS:
        plain = {name: plain_kl(name, anchor, Known({})) for name in anchor.kl}
        assert [plain[name].value for name in ("Q2_K", "Q4_K_M", "Q5_K_M", "Q8_0")] == sorted(
            (one.value for one in plain.values()), reverse=True
        )
        shares = [top_share(one, anchor).value for one in plain.values()]
        assert sorted(shares) == [top_share(plain[name], anchor).value for name in ("Q2_K", "Q4_K_M", "Q5_K_M", "Q8_0")]
        assert all(one.by == ESTIMATED and anchor.model in one.source for one in plain.values())
    half = Known({"Q4_K_M": small.kl["Q4_K_M"] / 2})
    scaled = plain_kl("Q2_K", small, half)
    assert scaled.value == pytest.approx(small.kl["Q2_K"] / 2)
    assert "scaled by this model's Q4_K_M" in scaled.source
    assert mixed_kl("Q4_K_M", scaled, small).value == pytest.approx(0.57 * scaled.value)
    untried = mixed_kl("Q4_K_M", scaled, large)
    assert untried.value == scaled.value
    assert "taken as no better" in untried.source
    between = {name: Figure(value, ESTIMATED) for name, value in (("Q2_K", 0.4), ("Q8_0", 0.004))}
    assert budget_kl(100.0, {"Q2_K": 50.0, "Q8_0": 150.0}, between).value == pytest.approx(0.04)
    assert budget_kl(10.0, {"Q2_K": 50.0, "Q8_0": 150.0}, between).value == pytest.approx(0.4)
    assert top_share(Figure(0.0, ESTIMATED), small).value == 1.0
    assert top_share(Figure(1e-4, ESTIMATED), small).value > small.same_top["Q8_0"]


def test_a_figure_of_several_files_is_as_sure_as_the_least_of_them() -> None:
    figures = [Figure(1.0, MEASURED, "a"), Figure(3.0, DRY_RUN, "b"), Figure(2.0, ESTIMATED, "c")]
    assert combined(figures[:1], max) == figures[0]
    assert combined(figures[:2], sum) == Figure(4.0, DRY_RUN, "b")
    assert combined(figures, max) == Figure(3.0, ESTIMATED, "c")
    assert combined([*figures, None], max) is None
