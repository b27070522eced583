"""Phases whose base is pruned: from trained adapters to a bundle that loads, and says what it lost."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core.errors import InvalidInput
from core.files import sha256_of
from core.gguf.cut_sizes import cut_sizes
from core.gguf.hollow import ADDED, smaller_size
from core.gguf.inspect import inspect_gguf
from core.gguf.metadata import COMPRESSION
from core.phases import service
from core.phases.compared import tables
from core.phases.measured import compressed, figures, label, taught_of
from core.phases.measuring import MeasuringPlanner, measure_artifact, parents_of
from core.phases.outcome import losses, outcome
from core.phases.outlook import outlook_of_phase
from core.phases.planned import Plan
from core.phases.recommending import Wish, recommend_phase
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Artifact, Job, Measurement
from core.tasks.check_small import verdict_of
from core.tasks.context import Context, TaskError
from core.tasks.domain_scores import Scored
from core.workspace import Workspace
from tara_tui.store_backend import StoreBackend
from tests.conftest import new_workspace
from tests.imitate import FAILED, end_job, ready, start_job
from tests.models import build_tiny

QUICK = {
    "sparse_keep": 0.8, "distilled_keep": 0.55, "prune_tokens": 200, "teacher_tokens": 200, "student_length": 64,
    "student_batch": 1, "heal_steps": 3, "heal_rank": 4, "distil_steps": 3, "distil_rank": 0,
}  # fmt: skip


def do(workspace: Workspace, kinds: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    """Run what can run by the real tasks in this process; their events by kind. What random weights say passes no
    gate, so `verify` is left out and its artifact only says so. Stops before a job that is not of `kinds`."""
    store, told = open_store(workspace), {}
    while jobs := [job for job in ready(store) if not kinds or job.kind in kinds]:
        assert jobs[0].id is not None
        told[jobs[0].kind] = run(workspace, jobs[0])
        assert end_job(store, jobs[0].id) == "succeeded"
    return told


def run(workspace: Workspace, job: Job) -> list[dict[str, Any]]:
    """Run a claimed job's task; its events."""
    assert job.id is not None
    run_dir = start_job(open_store(workspace), job.id)
    context = Context(run_dir)
    if job.kind == "verify":
        with context.staging() as path:
            path.write_text(json.dumps({"domains": {}}))
        assert context.out is not None
        context.artifact("verification", "phase-1", context.out, sha256=sha256_of(context.out), bytes=1)
    else:
        importlib.import_module(f"core.tasks.{job.kind.replace('-', '_')}").run(context)
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def phase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with a phase of one domain on a tiny base of four layers, which is trained and built as sparse."""
    folder = tmp_path_factory.mktemp("shrinking")
    workspace = new_workspace(folder / "workspace", build_tiny("llama", folder / "tiny", layers=4))
    for name, change in (("settings.yaml", {"compression": QUICK}), ("presets.yaml", None)):
        path = workspace.configs / name
        values = yaml.safe_load(path.read_text("utf-8"))
        values.update(change or {})
        if change is None:
            values["starter"] |= {"max_steps": 3, "sequence_length": 64}
        else:
            values["training"] |= {"evaluation_sequence_length": 64, "calibration_tokens": 100}
        path.write_text(yaml.safe_dump(values), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
        patch.setattr("core.phases.shrinking.HELD_OUT_TOKENS", 60)
        service.create_phase(workspace, 1, ["creative"], compression_type="sparse")
        service.build_phase(workspace, 1)
        (folder / "told.json").write_text(json.dumps(do(workspace)))
        yield workspace


def bundle(workspace: Workspace) -> tuple[Path, dict[str, Any]]:
    with open_reader(workspace) as reader:
        path = reader.phase(1).bundle_path
    assert path is not None
    folder = workspace.absolute(path)
    return folder, json.loads((folder / "manifest.json").read_text("utf-8"))


def measured(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in events if one["event"] == "measurement"}


def check_bundle(workspace: Workspace, technique: str) -> None:
    from core.gguf.runtime import Runtime

    folder, manifest = bundle(workspace)
    assert manifest["compression_type"] == technique
    (base,) = manifest["bases"].values()
    info = inspect_gguf(folder / base["file"])
    assert info.metadata[COMPRESSION] == technique == base["smaller"]["technique"]
    assert info.file_type == "Q4_K_M"
    (row,) = base["smaller"]["rows"]
    assert set(row["loss"]) >= {technique, "Q4_K_M"}
    assert base["smaller"]["bytes"][technique] == info.bytes < base["smaller"]["bytes"]["Q4_K_M"]
    figures_of = manifest["domains"]["creative"]["measurements"]
    assert figures_of["quality"] == row["accuracy"][technique]  # of the file that answers, not of the whole model
    with Runtime(folder / base["file"], n_ctx=64) as runtime:
        before = runtime.logits([5, 6, 7])
        runtime.attach(folder / manifest["domains"]["creative"]["adapter"], base_sha256=base["base_sha256"])
        assert (runtime.logits([5, 6, 7]) != before).any()


def scored(name: str, size: int, losses: list[float]) -> Scored:
    each = [np.full(5, loss) for loss in losses]
    return Scored(name, size, {"creative": each}, {"creative": each})


@pytest.mark.parametrize(
    ("losses", "size", "word", "said"),
    [
        ([2.0] * 9, 90, "better", "better than the plain file of no more bytes"),
        ([4.0] * 9, 90, "worse", "which is the better choice for quality"),
        ([2.0, 4.0] * 5, 90, "even", "within two standard errors"),
        ([2.0] * 9, 110, "no plain file", "no plain file is as small, Q2_K is the smallest"),
    ],
)
def test_a_smaller_file_is_judged_against_the_plain_one(losses: list[float], size: int, word: str, said: str) -> None:
    plain = scored("Q2_K", size, [3.0 + 0.01 * (at % 3) for at in range(len(losses))])
    found, sentence = verdict_of(scored("sparse", 100, losses), plain)
    assert found == word
    assert said in sentence


def test_a_sparse_phase_loads_and_says_what_it_lost(phase: Workspace) -> None:
    check_bundle(phase, "sparse")
    told = json.loads((phase.root.parent / "told.json").read_text())
    heal = measured(told["heal"])
    assert heal["healed_loss"] != heal["pruned_loss"]
    assert "teacher_helped" not in heal
    with open_reader(phase) as reader:
        (one,) = compressed(reader, reader.phase(1))
        assert (one["compression"], one["kept"]) == ("sparse", "sparse")
        assert one["why"].startswith("sparse, ")
        assert any(row[0] == "creative" for row in losses(one)[1])
        told = outcome(reader, reader.phase(1))
        assert str(told[0]).startswith("verification")
        healed = one["taught"]["says"]
        assert healed == f"healed: held-out loss {heal['pruned_loss']:.4f} before, {heal['healed_loss']:.4f} after"
        assert told[-3:] == [f"base {one['base']}: {one['why']}", f"base {one['base']}: {healed}", losses(one)]
        shown = StoreBackend(phase).phase_outcome(1)
        assert shown[0] == f" {told[0]}"
        assert any(line.startswith("held-out loss  sparse ") for line in shown)
        gguf = next(row for row in reader.artifacts(kind="gguf") if row["sha256"] == sha_of_bundle(phase))
        assert figures(reader, gguf)["held_out_loss", "creative"].value == one["rows"][0]["loss"]["sparse"]
        # Measured against the whole model's F16 file, each with the adapter that fits it.
        line = parents_of(reader, gguf)
        assert (line.model["kind"], line.whole["kind"], label(line.reference)) == ("small", "base", "starter-135M-F16")
        found = MeasuringPlanner(phase, service.load_catalog(phase), reader)
        sources = service.sources(phase, found.catalog, 1)
        job = found.measured(Plan(), gguf, line, sources, max_tokens=10)
        (cut,) = [
            row for row in reader.artifacts(kind="gguf-adapter") if row["path"] == job.inputs["adapters"]["creative"]
        ]
        assert cut["meta"]["base_sha256"] == line.model["key"]
        assert job.inputs["reference_adapters"]["creative"] != cut["path"]
    assert all(job.done for job in service.plan_build(phase, 1).jobs.values())
    assert outlook_of_phase(phase, 1, compression_type="distilled").jobs


def small_file(workspace: Workspace) -> dict[str, Any]:
    with open_reader(workspace) as reader:
        return next(row for row in reader.artifacts(kind="gguf") if row["sha256"] == sha_of_bundle(workspace))


def put_report(workspace: Workspace, reference_sha256: str, kl: float) -> None:
    """Record a report on the bundle's file against an F16 file, newer than what there is."""
    with open_store(workspace).write() as session:
        about = {"gguf_sha256": sha_of_bundle(workspace), "reference_sha256": reference_sha256}
        made = Artifact(
            key=f"report-{reference_sha256}-{kl}", kind="report", name="it", path="report.json", sha256="r", bytes=1,
            meta=json.dumps(about),
        )  # fmt: skip
        session.add(made)
        session.flush()
        for name, value in (("kl_mean", kl), ("same_top", 0.99), ("load_s", 7.0)):
            session.add(Measurement(artifact_id=made.id, name=name, value=value, method="against its pruned F16 file"))


def test_what_was_measured_beside_a_pruned_f16_file_does_not_count(phase: Workspace) -> None:
    with open_reader(phase) as reader:
        pruned_f16 = parents_of(reader, small_file(phase)).f16
        assert pruned_f16["name"] == "starter-135M+sparse"
    put_report(phase, pruned_f16["sha256"], 0.0001)
    with open_reader(phase) as reader:
        known = figures(reader, small_file(phase))
    assert known["load_s", ""].value == 7.0  # of the file alone, so it holds
    assert not {("kl_mean", ""), ("same_top", ""), ("reference", "")} & set(known)
    (row,) = [one for one in recommend_phase(phase, 1, Wish()).rows if one.choice.name == "Q4_K_M sparse"]
    assert row.choice.there
    assert (row.choice.kl, row.choice.same_top) == (None, None)
    assert not row.recommended


def test_a_pruned_file_is_measured_against_the_whole_model(phase: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.phases.measuring.ensure_runner", lambda _workspace: 0)
    ids, (gguf,) = measure_artifact(phase, "phase:1", max_tokens=20)
    assert len(ids) == 1
    assert set(do(phase)) == {"measure"}
    with open_reader(phase) as reader:
        line = parents_of(reader, gguf)
        put_report(phase, line.f16["sha256"], 0.00001)  # an older way to measure, asked for after it
        known, whole = figures(reader, gguf), figures(reader, line.reference)
    assert known["reference", ""].value == "starter-135M-F16"
    assert "starter-135M-F16" in known["kl_mean", ""].method
    assert known["kl_mean", ""].value > 0.00001
    loss, before = known["held_out_loss", "creative"].value, known["reference_held_out_loss", "creative"].value
    assert loss != before == whole["held_out_loss", "creative"].value
    (row,) = [one for one in recommend_phase(phase, 1, Wish()).rows if one.choice.name == "Q4_K_M sparse"]
    assert row.choice.kl is not None
    assert (row.choice.kl.value, row.choice.kl.by) == (known["kl_mean", ""].value, "measured")
    ((_, rows),) = tables([gguf], [known], 80)
    assert ("held against", "starter-135M-F16") in rows


def test_the_time_a_smaller_file_took_is_that_of_all_its_jobs(phase: Workspace) -> None:
    with open_reader(phase) as reader:
        took = figures(reader, small_file(phase))["build_s", ""]
        line = parents_of(reader, small_file(phase))
        whole = figures(reader, line.reference)["build_s", ""]
        mine = [
            job
            for job in reader.jobs()
            if job.kind in ("prune", "teach", "heal", "quantize")
            or (job.kind in ("convert", "imatrix") and "+sparse" in job.title)
        ]
    assert len(mine) == 6
    spent = {job.kind: (job.ended_at or 0) - (job.started_at or 0) for job in mine}
    assert took.value == pytest.approx(sum(spent.values()))
    assert took.value > spent["quantize"]
    assert took.method == "from start to end of prune, teach, heal, convert, imatrix, quantize"
    assert whole.method == "from start to end of convert"


def test_a_smaller_file_is_checked_with_the_adapters_of_its_bundle(phase: Workspace) -> None:
    plan = service.plan_build(phase, 1, service.Asked(repair=True))
    by_kind = {job.kind: job for job in plan.jobs.values()}
    bundled = by_kind["package"].inputs["adapters"]
    assert "creative" in bundled
    assert by_kind["check-small"].inputs["small_adapters"] == bundled
    order = list(plan.jobs)
    assert order.index(by_kind["repair-adapter"].key) < order.index(by_kind["check-small"].key)


def sha_of_bundle(workspace: Workspace) -> str:
    folder, manifest = bundle(workspace)
    (base,) = manifest["bases"].values()
    return sha256_of(folder / base["file"])


def whole_file(workspace: Workspace) -> Path:
    return next(path for path in (workspace.artifacts / "gguf").glob("*-F16-*.gguf") if "+" not in path.name)


def test_a_file_is_as_large_as_was_predicted_of_its_shape(phase: Workspace, tmp_path: Path) -> None:
    f16 = whole_file(phase)
    small = next((phase.artifacts / "gguf").glob("*+sparse-Q4_K_M-*.gguf"))
    about = inspect_gguf(small).metadata
    layers, width = about["llama.block_count"], about["llama.feed_forward_length"]
    assert layers < 4 or width < 128
    predicted = smaller_size(f16, tmp_path / "hollow.gguf", layers, width, "Q4_K_M")
    assert predicted - 2 * ADDED < small.stat().st_size <= predicted
    assert not list(tmp_path.iterdir())
    # Asked before anything of it is built, of the base's folder alone: the largest of what prune may take.
    (base,) = (phase.artifacts / "base").iterdir()
    told, to_size, too_small, whole = cut_sizes(
        base,
        [
            {"type": "Q4_K_M", "keep": QUICK["sparse_keep"]},
            {"type": "Q4_K_M", "target_bytes": small.stat().st_size},
            {"type": "Q4_K_M", "target_bytes": 100_000},
            {"type": "Q4_K_M", "target_bytes": 10**9},
        ],
    )
    assert predicted <= told["bytes"] < inspect_gguf(whole_file(phase)).bytes
    assert told["cuts"] > 0
    assert to_size["bytes"] <= small.stat().st_size
    assert (too_small["cuts"], too_small["layers"]) == (0, 2)
    assert too_small["bytes"] > 100_000
    assert whole == {"cannot": "nothing need be taken out of it for that size"}


def test_a_threshold_judges_the_file_that_is_delivered(phase: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.phases.plan.HELD_OUT_TOKENS", 60)
    service.build_phase(phase, 1, service.Asked(quality_threshold=0.0))
    told = do(phase)
    assert set(told) == {"quality-gate", "check-delivered", "verify", "package"} - {"verify"}
    _, manifest = bundle(phase)
    ((_, base),) = manifest["bases"].items()
    (row,) = base["smaller"]["rows"]
    found = manifest["domains"]["creative"]["measurements"]
    # The same file with the same adapter over the same text, run by another job.
    assert found["delivered_loss"] == row["loss"]["sparse"]
    assert found["quality"] == row["accuracy"]["sparse"]
    assert manifest["quality_gate"]["domains"]["creative"]["of"] == "the delivered file"
    service.build_phase(phase, 1, service.Asked(compression_type="standard", quantization="Q8_0"))
    do(phase)
    found = bundle(phase)[1]["domains"]["creative"]["measurements"]
    # Against what transformers made of the same examples in float32: of 8 bits there is little to lose.
    assert found["delivered_loss"] == pytest.approx(found["tuned_loss"], abs=0.02)
    assert found["delivered_loss"] != row["loss"]["sparse"]
    service.build_phase(phase, 1, service.Asked(compression_type="sparse", quantization="Q4_K_M"))  # as it was
    assert not [job for job in service.plan_build(phase, 1).missing() if job.kind not in ("quality-gate", "package")]


def test_a_target_that_cannot_be_reached_is_refused_with_the_least(phase: Workspace) -> None:
    asked = service.Asked(compression_type="sparse", target_size_mb=0.1)
    (prune,) = [job for job in service.plan_build(phase, 1, asked).missing() if job.kind == "prune"]
    assert (prune.params["target_bytes"], prune.params["keep"], prune.params["type"]) == (100_000, None, "Q4_K_M")
    service.build_phase(phase, 1, asked)
    store = open_store(phase)
    job = next(job for job in ready(store) if job.kind == "prune")
    assert job.id is not None
    with pytest.raises(TaskError, match=r"too small: with 2 of 4 layers and 64 of 128 channels .* takes [0-9.]+ MB"):
        run(phase, job)
    assert end_job(store, job.id, FAILED) == "failed"
    with pytest.raises(InvalidInput, match="megabytes above 0"):
        service.plan_build(phase, 1, service.Asked(compression_type="distilled", target_size_mb=-3))


def test_a_distilled_file_is_held_against_the_same_student_without_a_teacher(phase: Workspace) -> None:
    from core.gguf.runtime import Runtime

    size = inspect_gguf(next((phase.artifacts / "gguf").glob("*+sparse-Q4_K_M-*.gguf"))).bytes
    service.build_phase(phase, 1, service.Asked(compression_type="distilled", target_size_mb=size / 1e6))
    told = do(phase, ("prune", "teach", "distil", "convert", "imatrix", "quantize"))
    assert set(told) == {"prune", "distil", "convert", "imatrix", "quantize"}  # teacher and adapters are there
    found = measured(told["distil"])
    assert found["distilled_loss"] != found["control_loss"]
    assert found["teacher_helped"] == ("yes" if found["distilled_loss"] < found["control_loss"] else "no")
    assert found["kl_after"] != found["control_kl_after"]
    file = next((phase.artifacts / "gguf").glob("*+distilled-Q4_K_M-*.gguf"))
    with open_reader(phase) as reader:
        (row,) = [one for one in reader.artifacts(kind="gguf") if phase.absolute(one["path"]) == file]
        taught = taught_of(reader, row)
    assert taught is not None
    assert taught["control_loss"] == found["control_loss"]
    assert f"the same student without teacher {found['control_loss']:.4f}" in taught["says"]
    info = inspect_gguf(file)
    assert (info.metadata[COMPRESSION], info.file_type) == ("distilled", "Q4_K_M")
    assert info.bytes <= size
    with Runtime(info.path, n_ctx=64) as runtime:
        assert runtime.logits([5, 6, 7]).any()
