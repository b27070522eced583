"""Recommendations for phases and domains: choices from plans, dry runs and reports of a workspace."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog.bases import locate
from core.catalog.model import QUANTIZATIONS
from core.errors import InvalidInput, Refused
from core.phases import file_sizes, recommending, service
from core.phases.choices import DRY_RUN, ESTIMATED, MEASURED, Choice, Ranked
from core.phases.dry_runs import CutSize, CutWish, Outline
from core.phases.file_sizes import SIZES as SIZED
from core.phases.kinds import COMPRESSION_TYPES
from core.phases.outlook import outlook_of_phase
from core.phases.recommended import lines
from core.phases.recommending import Recommendation, Wish, recommend_domain, recommend_phase
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Artifact, Measurement, Phase
from core.workspace import Workspace
from tests.conftest import use_base
from tests.imitate import base_folder, contents, do_all

MB = 10**6
SIZES = {"Q2_K": 88 * MB, "Q4_K_M": 105 * MB, "Q5_K_M": 112 * MB, "Q8_0": 145 * MB}
OUTLINE = Outline(271 * MB, SIZES, 71 * MB, 135 * MB, 23040, 8192)


@pytest.fixture(autouse=True)
def outlined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up base has no weights that a converter could be asked about, and this machine room for it."""
    for module in (recommending, file_sizes):
        monkeypatch.setattr(module, "outline_of", lambda _source, _identity: OUTLINE)
    monkeypatch.setattr(file_sizes, "cut_sizes_of", lambda _source, _identity, wishes: list(map(cut_size, wishes)))
    monkeypatch.setattr("core.phases.outlook.available_memory", lambda: (8 * 10**9, "the machine's memory"))
    monkeypatch.setattr("core.phases.outlook.total_memory", lambda: 16 * 10**9)


def cut_size(wish: CutWish) -> CutSize:
    """Of the made-up base's files down to half of the bytes can be had."""
    whole = SIZES[wish.type]
    if wish.target_bytes is None:
        assert wish.keep is not None
        return CutSize(round(whole * wish.keep), 27, 30, 3)
    if whole <= wish.target_bytes:
        return CutSize(cannot="nothing need be taken out of it for that size")
    return CutSize(max(wish.target_bytes, whole // 2), 15, 30, 4 if whole // 2 <= wish.target_bytes else 0)


def on_a_gguf_base(monkeypatch: pytest.MonkeyPatch, name: str = "starter-135M") -> Path:
    """Have a base of the phase be the GGUF file in the package."""
    from tests.models import embedded_gguf

    path = embedded_gguf()
    for module in ("recommending", "file_sizes", "plan", "needs"):
        monkeypatch.setattr(
            f"core.phases.{module}.locate",
            lambda base, workspace: (
                replace(locate(base, workspace), kind="gguf", path=path.parent, gguf_file=path.name)
                if base.name == name
                else locate(base, workspace)
            ),
        )
    return path


def as_is(found: Recommendation) -> Ranked:
    return next(row for row in found.rows if row.choice.technique == "as-is")


def of(found: Recommendation, quantization: str, technique: str) -> Choice:
    return next(
        row.choice for row in found.rows if (row.choice.quantization, row.choice.technique) == (quantization, technique)
    )


def report(workspace: Workspace, figures: dict[str, float], quantization: str = "Q4_K_M") -> None:
    """Record a report on the file of the phase in a type, as `tara measure` leaves it; its real size is given too."""
    with open_store(workspace).write() as session:
        with open_reader(workspace) as reader:
            row = next(row for row in reader.artifacts(kind="gguf") if quantization in row["path"])
        file = session.get(Artifact, row["id"])
        assert file is not None
        file.bytes = SIZES[quantization] + 32
        file.name, file.meta = "starter-135M", json.dumps({"file_type": quantization})
        made = Artifact(
            key=f"report-{quantization}", kind="report", name="starter-135M", path="report.json", sha256="r", bytes=1,
            meta=json.dumps({"gguf_sha256": file.sha256}),
        )  # fmt: skip
        session.add(made)
        session.flush()
        for name, value in figures.items():
            session.add(Measurement(artifact_id=made.id, name=name, value=value, method="a report"))


@pytest.fixture
def measured(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The built phase with a report; what is no GGUF has no header to be read."""
    monkeypatch.setattr("core.phases.measured._header", lambda _path: [])
    figures = {"kl_mean": 0.044, "same_top": 0.87, "generation_tokens_per_s": 40.0, "peak_rss_bytes": 180e6}
    report(built, figures)
    return built


def test_all_sixteen_are_ranked_and_what_is_not_known_before_it_is_built_comes_last(built: Workspace) -> None:
    before = contents(built)
    found = recommend_phase(built, None, Wish())
    assert contents(built) == before
    assert len(found.rows) == len(QUANTIZATIONS) * len(COMPRESSION_TYPES)
    known = len(QUANTIZATIONS) * len(SIZED)
    for row in found.rows[:known]:
        assert row.choice.technique in SIZED
        assert None not in (row.choice.kl, row.choice.same_top)
    for row in found.rows[known:]:
        assert row.choice.technique in ("sparse", "distilled")
        assert (row.choice.kl, row.choice.same_top, row.recommended) == (None, None, False)
        assert row.why == "fits; what it loses is not known before it is built"
    for row in found.rows:
        one = row.choice
        assert (one.cannot, row.fits) == ("", True)
        assert None not in (one.bytes, one.memory, one.speed)
        assert one.command.startswith(f"tara build-phase 1 --quantization {one.quantization} --compression-type ")
    assert found.best is not None
    assert found.best.choice.name == "Q8_0 standard"
    text = "\n".join(lines(found))
    assert "recommended: Q8_0 standard, least KL among what fits" in text
    assert "to build it: tara build-phase 1 --quantization Q8_0 --compression-type standard" in text
    cut = of(found, "Q8_0", "sparse")
    assert cut.bytes is not None
    assert (cut.bytes.value, cut.bytes.by) == (round(145 * MB * 0.85), DRY_RUN)
    assert "which of 3 ways to cut is taken is measured while it is built" in cut.bytes.source
    assert cut.memory is not None
    assert cut.memory.value == cut.bytes.value + 2048 * 23040 * 27 / 30 + 150 * MB  # fewer layers, a smaller cache
    assert cut.memory.by == ESTIMATED


def test_what_parts_are_taken_out_of_is_recommended_only_where_nothing_else_is_so_small(phase_one: Workspace) -> None:
    found = recommend_phase(phase_one, 1, Wish(target_mb=60))
    assert found.best is not None
    one = found.best.choice
    assert (one.technique, one.kl) == ("sparse", None)
    assert one.bytes is not None
    assert (one.bytes.value, one.bytes.by) == (60 * MB, DRY_RUN)
    assert one.command.endswith("--compression-type sparse --target-size 60")
    assert "nothing of known quality fits; what this loses is not known before it is built" in found.verdict
    assert of(found, "Q8_0", "sparse").bytes == replace(one.bytes, value=72.5 * MB, source="of the least that can stay")
    # A mixture of 90 MB is of a quality that is known, and whose plain type fits need not be cut.
    more = recommend_phase(phase_one, 1, Wish(target_mb=90))
    assert more.best is not None
    assert more.best.choice.technique in SIZED
    assert of(more, "Q2_K", "sparse").cannot == "nothing need be taken out of it for that size"
    # Nothing that is not known keeps a bound on quality.
    for quality in ("kl:0.5", "0.3"):
        asked = recommend_phase(phase_one, 1, Wish(target_mb=60, quality=quality))
        assert asked.best is None
        why = next(row.why for row in asked.rows if row.choice.name == "Q4_K_M sparse")
        assert why.endswith("is not known before it is built")
    fast = recommend_phase(phase_one, 1, Wish(speed=True))
    assert fast.best is not None
    assert fast.best.choice.technique in SIZED


def test_what_is_cut_already_as_the_phase_is_set_stands_for_a_target_it_keeps(built: Workspace) -> None:
    service.build_phase(built, 1, service.Asked("Q8_0", "sparse"))
    do_all(built)
    one = of(recommend_phase(built, 1, Wish(target_mb=120)), "Q8_0", "sparse")
    assert one.there
    assert one.command == "tara build-phase 1 --quantization Q8_0 --compression-type sparse"
    row = next(row for row in recommend_phase(built, 1, Wish(target_mb=120)).rows if row.choice.name == one.name)
    assert row.why == "fits; what it loses is not measured"


def test_without_a_report_all_is_estimated_but_the_size(built: Workspace) -> None:
    one = of(recommend_phase(built, 1, Wish()), "Q5_K_M", "standard")
    assert one.bytes is not None
    assert (one.bytes.value, one.bytes.by) == (112 * MB, DRY_RUN)
    assert one.memory is not None
    assert one.memory.value == 112 * MB + 2048 * 23040 + 150 * MB
    for figure in (one.memory, one.speed, one.kl, one.same_top):
        assert figure is not None
        assert figure.by == ESTIMATED
        assert figure.source
    assert one.kl is not None
    assert "SmolLM2 135M" in one.kl.source


def test_what_was_measured_is_used_and_marked(measured: Workspace) -> None:
    found = recommend_phase(measured, 1, Wish())
    one = of(found, "Q4_K_M", "standard")
    assert one.there
    for figure, value in ((one.kl, 0.044), (one.same_top, 0.87), (one.speed, 40.0), (one.bytes, 105 * MB + 32)):
        assert figure is not None
        assert (figure.value, figure.by) == (value, MEASURED)
    assert one.memory is not None
    assert one.memory.value == 180e6 + (2048 - 512) * 23040
    assert one.prediction_error == pytest.approx(32 / (105 * MB))
    assert "Q4_K_M standard is built: 105 MB, the dry run says 105 MB (+0.000%)" in lines(found)
    other = of(found, "Q2_K", "standard")
    assert other.kl is not None
    assert other.kl.by == ESTIMATED
    assert other.kl.value == pytest.approx(0.660 * 0.044 / 0.0885)  # as much better than the anchor as Q4_K_M is
    assert other.speed is not None
    assert other.speed.value == pytest.approx(40.0 * (105 * MB + 32) / (88 * MB))
    assert other.memory is not None
    assert other.memory.value == pytest.approx(88 * MB + 2048 * 23040 + 180e6 - 105 * MB - 32 - 512 * 23040)


def test_a_target_is_the_budget_of_the_mixture_beside_the_largest_type_that_fits(built: Workspace) -> None:
    found = recommend_phase(built, 1, Wish(target_mb=108))
    mixed = of(found, "Q4_K_M", "hybrid")
    assert mixed.bytes is not None
    assert mixed.bytes.value == 108 * MB
    assert mixed.command.endswith("--quantization Q4_K_M --compression-type hybrid --target-size 108")
    assert found.best is not None
    assert found.best.choice is mixed
    smaller = of(found, "Q2_K", "hybrid")
    assert smaller.bytes is not None
    assert smaller.bytes.value == 88 * MB
    assert smaller.command.endswith("--target-size 88")
    assert all(row.choice.largest.value <= 108 * MB for row in found.rows if row.fits and row.choice.largest)
    # What is recommended is what the command builds: the same job.
    asked = service.Asked("Q4_K_M", "hybrid", 108.0)
    service.build_phase(built, 1, asked)
    do_all(built)
    assert of(recommend_phase(built, 1, Wish()), "Q4_K_M", "hybrid").there  # the phase's own target counts now


def test_where_nothing_fits_it_is_said_with_the_nearest(phase_one: Workspace) -> None:
    found = recommend_phase(phase_one, 1, Wish(target_mb=40))
    assert found.best is None
    # 44 MB is the least that can stay of it: nearer than the smallest mixture.
    assert found.verdict == "nothing fits; the nearest is Q2_K sparse: 10.0% over the target of 40.0 MB"
    assert not any("to build it" in line for line in lines(found))
    little = recommend_phase(phase_one, 1, Wish(memory_mb=200))
    assert little.best is None
    assert little.verdict.startswith("nothing fits; the nearest is Q2_K ")


def test_quality_speed_and_what_the_phase_itself_is_set_to(built: Workspace) -> None:
    assert recommend_phase(built, 1, Wish(quality="kl:0.1")).verdict.startswith(
        "recommended: Q4_K_M standard, smallest"
    )
    fast = recommend_phase(built, 1, Wish(speed=True))
    assert fast.bounds.speed
    with open_store(built).write() as session:
        row = session.get(Phase, 1)
        assert row is not None
        row.speed_priority, row.target_size_mb = True, 110.0
    own = recommend_phase(built, 1, Wish())
    assert (own.bounds.speed, own.bounds.target) == (True, 110 * MB)
    assert all("--target-size" not in row.choice.command for row in own.rows if "standard" in row.choice.name)
    free = recommend_phase(built, 1, Wish(target_mb="none"))
    assert free.bounds.target is None
    mixtures = [row.choice for row in free.rows if row.choice.name.endswith(" hybrid")]
    assert len(mixtures) == 4
    assert all(one.command.endswith("hybrid --target-size none") for one in mixtures)
    assert not recommend_phase(built, 1, Wish(speed=False)).bounds.speed


def test_a_machine_that_cannot_build_it_is_no_machine_for_it(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("core.phases.outlook.shutil.disk_usage", lambda _path: full)
    found = recommend_phase(built, 1, Wish())
    assert "cannot be built here: quantize starter-135M to Q8_0: disk: " in next(
        row.why for row in found.rows if row.choice.name == "Q8_0 standard"
    )
    assert found.best is not None  # what is built already needs nothing
    assert found.best.choice.name == "Q4_K_M standard"


def test_a_base_that_is_a_gguf_could_stay_as_it_is(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = on_a_gguf_base(monkeypatch)
    kept = as_is(recommend_phase(built, 1, Wish()))
    assert kept.choice.bytes is not None
    assert kept.choice.bytes.value == path.stat().st_size
    assert kept.choice.quantization == "Q4_1"
    assert (kept.choice.cannot, kept.choice.there, kept.fits) == ("", False, True)
    assert None not in (kept.choice.memory, kept.choice.speed)
    assert kept.choice.command == "tara build-phase 1 --quantization as-is --compression-type standard"
    # The command is not refused, whatever technique the phase is built with.
    service.build_phase(built, 1, service.Asked("Q4_K_M", "hybrid"))
    assert as_is(recommend_phase(built, 1, Wish())).choice.cannot == ""
    with pytest.raises(Refused, match="as-is keeps a base's own file, hybrid makes another"):
        outlook_of_phase(built, 1, quantization="as-is")
    service.build_phase(built, 1, service.Asked("as-is", "standard"))
    do_all(built)
    assert as_is(recommend_phase(built, 1, Wish())).choice.there


def test_what_keeps_a_base_from_staying_as_it_is_is_said(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gguf_base(monkeypatch)
    full = shutil.disk_usage("/")._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr("core.phases.outlook.shutil.disk_usage", lambda _path: full)
        row = as_is(recommend_phase(built, 1, Wish()))
        assert not row.fits
        assert "cannot be built here: " in row.why
    with monkeypatch.context() as patch:
        real = recommending.inspect_gguf
        patch.setattr(recommending, "inspect_gguf", lambda file: replace(real(file), chat_template=None))
        assert "has no chat template" in as_is(recommend_phase(built, 1, Wish())).choice.cannot
    for change, said in (({"merge": "exact"}, "--merge exact writes other weights"), ({"repair": True}, "--repair")):
        with open_store(built).write() as session:
            row_of_phase = session.get(Phase, 1)
            assert row_of_phase is not None
            row_of_phase.sqlmodel_update({"merge": "none", "repair": False, **change})
        assert said in as_is(recommend_phase(built, 1, Wish())).choice.cannot


def test_a_base_that_is_a_folder_keeps_the_others_from_staying_as_they_are(
    built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_base(built, base_folder(tmp_path / "second", seed=2), "Efficient-1B")
    mapping = built.configs / "domain_model_mapping.yaml"
    text = mapping.read_text("utf-8")
    at = text.index("\nbusiness:")
    mapping.write_text(text[:at] + text[at:].replace("starter-135M", "Efficient-1B", 1), "utf-8")
    assert [row for row in recommend_phase(built, 1, Wish()).rows if row.choice.technique == "as-is"] == []
    on_a_gguf_base(monkeypatch)
    cannot = as_is(recommend_phase(built, 1, Wish())).choice.cannot
    assert cannot == "Efficient-1B is a folder of weights and no GGUF file"


def test_a_base_as_it_is_says_nothing_of_what_rounding_costs(
    measured: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = of(recommend_phase(measured, 1, Wish()), "Q2_K", "standard").kl
    with open_store(measured).write() as session:
        made = Artifact(
            key="kept", kind="gguf", name="starter-135M", path="configs/settings.yaml", sha256="kept", bytes=88 * MB,
            meta=json.dumps({"file_type": "Q2_K", "as_is": True}),
        )  # fmt: skip
        session.add(made)
        about = Artifact(
            key="report-kept", kind="report", name="starter-135M", path="kept.json", sha256="k", bytes=1,
            meta=json.dumps({"gguf_sha256": "kept"}),
        )  # fmt: skip
        session.add(about)
        session.flush()
        session.add(Measurement(artifact_id=about.id, name="kl_mean", value=1e-6, method="a report"))
    assert of(recommend_phase(measured, 1, Wish()), "Q2_K", "standard").kl == before


def test_a_domain_is_one_merged_file(built: Workspace) -> None:
    found = recommend_domain(built, "healthcare", Wish(target_mb=110))
    assert found.best is not None
    assert found.best.choice.command == "tara export-domain healthcare --quantization Q4_K_M"
    assert of(found, "Q4_K_M", "hybrid").cannot == "export-domain makes plain types only"


def test_what_is_not_there_or_no_wish_is_said(built: Workspace, workspace: Workspace) -> None:
    for call in (
        lambda: recommend_phase(built, 7, Wish()),
        lambda: recommend_phase(built, 1, Wish(target_mb=0)),
        lambda: recommend_phase(built, 1, Wish(memory_mb=-5)),
        lambda: recommend_phase(built, 1, Wish(quality="fine")),
        lambda: recommend_domain(built, "nobody", Wish()),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_without_a_phase_there_is_nothing_to_recommend_for(ready_workspace: Workspace) -> None:
    with pytest.raises(Refused, match="there is no phase yet"):
        recommend_phase(ready_workspace, None, Wish())
