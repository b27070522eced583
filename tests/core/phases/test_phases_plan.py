"""Plans: only what is missing or stale is made, and what is shared is made once."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from core.catalog import load_catalog
from core.errors import InvalidInput, Refused
from core.phases import declaring, service
from core.phases.measured import compressed, kept_changes
from core.phases.merging import MergeWish
from core.phases.planned import Plan
from core.phases.verified import answers_line, verified_file, verified_phase
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Domain, Job
from core.workspace import Workspace
from tests.conftest import use_base
from tests.imitate import (
    FAILED,
    QUALITY,
    WHY,
    adapter_folder,
    base_folder,
    chat_lines,
    contents,
    do_all,
    do_job,
    ready,
    tree,
)

CHAIN = [("train", "business"), ("evaluate", "business"), ("adapter-convert", "business")]
CALIBRATION = [("imatrix", None), ("quantize", None)]  # what reads the training text of all
TAIL = [("verify", None), ("package", None)]


def missing(plan: Plan) -> Counter[tuple[str, str | None]]:
    return Counter((job.kind, job.domain) for job in plan.missing())


def plan(workspace: Workspace, quantization: str | None = None) -> Counter[tuple[str, str | None]]:
    return missing(service.plan_build(workspace, 1, service.Asked(quantization=quantization)))


def edit_mapping(workspace: Workspace, domain: str, base: str) -> None:
    path = workspace.configs / "domain_model_mapping.yaml"
    lines = [
        line.replace("current: starter-135M", f"current: {base}") if line.startswith(f"{domain}:") else line
        for line in path.read_text("utf-8").splitlines()
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_a_phase_of_two_domains_shares_its_base(phase_one: Workspace) -> None:
    found = service.plan_build(phase_one, 1)
    assert missing(found) == Counter(
        [
            ("base", None),
            ("convert", None),
            ("imatrix", None),
            ("quantize", None),
            *CHAIN,
            *((kind, "healthcare") for kind, _ in CHAIN),
            *TAIL,
        ]
    )
    seen: set[str] = set()
    for job in found.jobs.values():  # everything comes after what it needs
        assert set(job.needs) <= seen
        seen.add(job.key)
    assert found.bundle == list(found.jobs)[-1]
    assert len({job.out for job in found.jobs.values()}) == len(found.jobs)


def test_planning_changes_nothing(phase_one: Workspace) -> None:
    rows, files = contents(phase_one), tree(phase_one.root)
    first, second = service.plan_build(phase_one, 1), service.plan_build(phase_one, 1)
    assert first == second
    assert (contents(phase_one), tree(phase_one.root)) == (rows, files)


def test_a_built_phase_has_nothing_missing(built: Workspace) -> None:
    assert not plan(built)
    rows, files = contents(built), tree(built.root)
    assert service.build_phase(built, 1) == []
    assert service.train_domain(built, "business") == []
    assert (contents(built), tree(built.root)) == (rows, files)
    with open_reader(built) as reader:
        assert reader.phase(1).state == "compressing"


def test_changed_data_makes_only_that_domain_stale(built: Workspace) -> None:
    chat_lines(built.data / "business.jsonl", answer="something else")
    assert plan(built) == Counter([*CHAIN, *CALIBRATION, *TAIL])


def test_hybrid_takes_the_place_of_quantization_and_is_remembered(built: Workspace) -> None:
    stale = Counter([("type-costs", None), ("hybrid", None), *TAIL])
    hybrid = service.plan_build(built, 1, service.Asked(compression_type="hybrid"))
    assert missing(hybrid) == stale
    assert not plan(built)
    job = next(job for job in hybrid.jobs.values() if job.kind == "hybrid")
    assert {hybrid.jobs[key].kind for key in job.needs} == {"base", "convert", "imatrix", "type-costs"}
    assert (job.params["type"], job.params["target_bytes"]) == ("Q4_K_M", None)
    assert job.need.memory > 0
    with pytest.raises(InvalidInput, match="above 0"):
        service.build_phase(built, 1, service.Asked(compression_type="hybrid", target_size_mb=-1.0))
    assert len(service.build_phase(built, 1, service.Asked(compression_type="hybrid"))) == 4
    do_all(built)
    assert not plan(built)
    with open_reader(built) as reader:
        phase = reader.phase(1)
        (made,) = compressed(reader, phase)
    assert (phase.compression_type, phase.target_size_mb, phase.state) == ("hybrid", None, "compressing")
    assert (made["why"], made["kept"]) == (WHY, "mixture")
    # The budget is the type's size, so another type is another budget; a target in bytes is one whatever the type.
    # Costs are of the model, for any budget.
    assert plan(built, "Q8_0") == Counter([("hybrid", None), *TAIL])
    assert len(service.build_phase(built, 1, service.Asked(target_size_mb=100.25))) == 3
    do_all(built)
    assert not set(plan(built, "Q8_0")) & {("hybrid", None)}
    with open_reader(built) as reader:
        assert reader.phase(1).target_size_mb == 100.25
    target = next(job for job in service.plan_build(built, 1).jobs.values() if job.kind == "hybrid")
    assert (target.params["type"], target.params["target_bytes"]) == (None, 100_250_000)
    untold = service.plan_build(built, 1, service.Asked(target_size_mb="none"))
    job = next(job for job in untold.jobs.values() if job.kind == "hybrid")
    assert (job.params["type"], job.params["target_bytes"], job.done) == ("Q4_K_M", None, True)
    assert (
        service.build_phase(built, 1, service.Asked(compression_type="standard")) == []
    )  # what was built first is there still
    with open_reader(built) as reader:
        assert not compressed(reader, reader.phase(1))


def test_hybrid_without_calibration_text_is_refused(built: Workspace) -> None:
    path = built.configs / "settings.yaml"
    path.write_text(path.read_text("utf-8").replace("calibration_tokens: 2048", "calibration_tokens: 0"), "utf-8")
    with pytest.raises(Refused, match="calibration_tokens is 0"):
        service.build_phase(built, 1, service.Asked(compression_type="hybrid"))


def test_a_changed_system_prompt_makes_only_that_domain_stale(built: Workspace) -> None:
    with open_reader(built) as reader:
        assert reader.phase(1).complete == 2
    path = built.configs / "universal_domains.yaml"
    head, mark, rest = path.read_text("utf-8").partition("\nbusiness:")
    assert mark
    path.write_text(head + mark + rest.replace("system_prompt: ", "system_prompt: Indeed, ", 1), "utf-8")
    assert set(plan(built)) <= {*CHAIN, *CALIBRATION, *TAIL}
    assert plan(built)[("train", "business")] == 1


def test_a_changed_quantization_makes_only_the_quantized_stale(built: Workspace) -> None:
    stale = Counter([("quantize", None), *TAIL])
    assert plan(built, "Q8_0") == stale
    assert not plan(built)
    ids = service.build_phase(built, 1, service.Asked(quantization="Q8_0"))
    assert len(ids) == 3
    with open_reader(built) as reader:
        assert reader.phase(1).quantization == "Q8_0"
        assert reader.phase(1).bundle_path is None
    do_all(built)
    assert not plan(built)
    assert service.build_phase(built, 1, service.Asked(quantization="Q4_K_M")) == []  # the first bundle is there still
    with open_reader(built) as reader:
        assert reader.phase(1).bundle_path is not None


def test_a_moved_base_is_the_same_and_a_changed_one_is_not(built: Workspace, tmp_path: Path) -> None:
    use_base(built, base_folder(tmp_path / "moved"))
    assert not plan(built)
    use_base(built, base_folder(tmp_path / "changed", seed=1))
    assert sum(plan(built).values()) == 12


def test_a_reworded_preset_makes_nothing_stale(built: Workspace) -> None:
    path = built.configs / "presets.yaml"
    lines = path.read_text("utf-8").splitlines()
    text = "\n".join("  description: reworded" if line.lstrip().startswith("description:") else line for line in lines)
    path.write_text(text + "\n", "utf-8")
    assert not plan(built)


def test_a_lost_artifact_is_made_again(built: Workspace) -> None:
    with open_reader(built) as reader:
        path = next(row["path"] for row in reader.artifacts(kind="gguf-adapter") if row["domain"] == "business")
    built.absolute(path).unlink()
    assert plan(built) == Counter([("adapter-convert", "business")])
    (number,) = service.build_phase(built, 1)
    with open_reader(built) as reader:
        assert reader.job(number).depends_on == ()
    before = contents(built)["artifact_parent"]
    do_all(built)
    assert contents(built)["artifact_parent"] == before  # what was made of it still points to it
    assert not plan(built)


def test_two_bases_are_each_made_once(phase_one: Workspace, tmp_path: Path) -> None:
    use_base(phase_one, base_folder(tmp_path / "second", seed=2), "Efficient-1B")
    edit_mapping(phase_one, "business", "Efficient-1B")
    found = plan(phase_one)
    assert [found[(kind, None)] for kind in ("base", "convert", "imatrix", "quantize", "verify")] == [2, 2, 2, 2, 1]


def test_the_mapping_decides_on_the_base(built: Workspace, tmp_path: Path) -> None:
    use_base(built, base_folder(tmp_path / "second", seed=2), "Efficient-1B")
    edit_mapping(built, "business", "Efficient-1B")
    # What is left of the first base is read with one domain's text less.
    made = [("base", None), ("convert", None), *[("imatrix", None), ("quantize", None)] * 2]
    assert plan(built) == Counter([*made, *CHAIN, *TAIL])
    service.build_phase(built, 1)
    with open_store(built).write() as session:
        row = session.get(Domain, "business")
        assert row is not None
        assert row.base == "Efficient-1B"


def test_another_bases_failure_shows(phase_one: Workspace, tmp_path: Path) -> None:
    use_base(phase_one, base_folder(tmp_path / "second", seed=2), "Efficient-1B")
    edit_mapping(phase_one, "business", "Efficient-1B")
    service.build_phase(phase_one, 1)
    store = open_store(phase_one)
    failed = 0
    while jobs := ready(store):
        first = jobs[0]
        assert first.id is not None
        fails = first.kind == "convert" and failed == 0
        failed += fails
        do_job(store, first.id, FAILED) if fails else do_job(store, first.id)
    with open_reader(phase_one) as reader:
        assert reader.phase(1).state == "failed"


def test_phases_that_share_a_base_share_its_files(built: Workspace) -> None:
    chat_lines(built.data / "education.jsonl")
    service.create_phase(built, 2, ["education"])
    found = missing(service.plan_build(built, 2))
    # The quantized base is not shared: it is rounded by what the phase itself reads.
    own = {"train", "evaluate", "adapter-convert", "imatrix", "quantize", "verify", "package"}
    assert {kind for kind, _ in found} == own


def test_an_adapter_from_elsewhere_is_not_trained(phase_one: Workspace, tmp_path: Path) -> None:
    service.add_domain(phase_one, 1, "business", adapter_path=adapter_folder(tmp_path / "mine", "starter-135M"))
    found = plan(phase_one)
    assert ("train", "business") not in found
    assert found[("evaluate", "business")] == 1
    service.build_phase(phase_one, 1)
    do_all(phase_one)
    assert not plan(phase_one)
    with open_reader(phase_one) as reader:
        business = next(view for view in reader.domains() if view.name == "business")
        assert business.status == "complete"
        assert business.adapter_path is not None
        assert json.loads((phase_one.root / business.adapter_path / "adapter_config.json").read_text())["r"] == 2


def test_training_here_drops_the_adapter_from_elsewhere(phase_one: Workspace, tmp_path: Path) -> None:
    service.add_domain(phase_one, 1, "business", adapter_path=adapter_folder(tmp_path / "mine", "starter-135M"))
    service.build_phase(phase_one, 1)
    do_all(phase_one)
    declaring.update_domain(phase_one, "business", train_here=True)
    with open_reader(phase_one) as reader:
        business = next(view for view in reader.domains() if view.name == "business")
        assert (business.status, business.adapter_path) == ("pending", None)
    assert plan(phase_one)[("train", "business")] == 1


def test_an_adapter_from_elsewhere_makes_a_failed_training_good(phase_one: Workspace, tmp_path: Path) -> None:
    service.train_domain(phase_one, "business")
    store = open_store(phase_one)
    for how in (None, FAILED):
        (job,) = ready(store)
        assert job.id is not None
        do_job(store, job.id, how) if how else do_job(store, job.id)
    with open_reader(phase_one) as reader:
        assert reader.phase(1).state == "failed"
    service.add_domain(phase_one, 1, "business", adapter_path=adapter_folder(tmp_path / "mine", "starter-135M"))
    service.build_phase(phase_one, 1)
    do_all(phase_one)
    with open_reader(phase_one) as reader:
        assert (reader.phase(1).state, reader.phase(1).complete) == ("compressing", 2)


@pytest.mark.parametrize(
    ("quantization", "kinds"),
    [
        ("F16", ["merge", "convert", "verify"]),
        ("Q8_0", ["merge", "convert", "imatrix", "quantize", "verify", "kept-change"]),
    ],
)
def test_an_export_merges_and_leaves_the_phase_alone(built: Workspace, quantization: str, kinds: list[str]) -> None:
    ids, path = service.export_domain(built, "business", quantization)
    with open_reader(built) as reader:
        assert [reader.job(one).kind for one in ids] == kinds
        assert reader.phase(1).state == "compressing"
        bundled = verified_phase(reader, reader.phase(1))
    do_all(built)
    assert path.is_file()
    with open_reader(built) as reader:
        (one,) = verified_file(reader, built.relative(path))
        assert answers_line([one]) == "verification, answers that passed: business 2 of 3 (1 asked again as in chat)"
        assert verified_phase(reader, reader.phase(1)) == bundled
        assert [one["domain"] for one in bundled] == ["healthcare", "business"]
    assert service.export_domain(built, "business", quantization) == ([], path)


def test_an_exported_file_is_loaded_and_tried(built: Workspace) -> None:
    """The merged domain as in a merged phase's bundle: nothing to take off, its example question first."""
    ids, path = service.export_domain(built, "business", "Q8_0")
    with open_store(built).write() as session:
        job = next(row for one in ids if (row := session.get(Job, one)) is not None and row.kind == "verify")
        params, inputs = json.loads(job.params), json.loads(job.inputs)
        assert (job.domain, job.phase, params["export"]) == ("business", 1, "business-Q8_0")
    assert inputs["adapters"] == {}
    ((name, files),) = inputs["bases"].items()
    assert files["gguf"] == built.relative(path)
    assert Path(files["model"]).parent == Path("artifacts/merged")
    (facts,) = params["domains"].values()
    assert facts["base"] == name
    assert facts["prompt"][0] == load_catalog(built).domain("business").example_question
    assert len(facts["prompt"]) == 3


def test_an_adapter_from_elsewhere_is_exported_without_data(phase_one: Workspace, tmp_path: Path) -> None:
    """Then the example question alone is asked."""
    source = adapter_folder(tmp_path / "mine", "starter-135M")
    service.add_domain(phase_one, 1, "sleep", adapter_path=source)
    ids, _ = service.export_domain(phase_one, "sleep")
    with open_store(phase_one).write() as session:
        rows = [session.get(Job, one) for one in ids]
        (params,) = [json.loads(row.params) for row in rows if row is not None and row.kind == "verify"]
    assert len(params["domains"]["sleep"]["prompt"]) == 1


def test_training_without_a_phase(ready_workspace: Workspace) -> None:
    ids = service.train_domain(ready_workspace, "business")
    assert len(ids) == 3
    with open_reader(ready_workspace) as reader:
        assert {job.phase for job in reader.jobs()} == {None}
    service.create_phase(ready_workspace, 4, ["business"])
    built = service.build_phase(ready_workspace, 4)
    assert set(ids) < set(built)
    with open_reader(ready_workspace) as reader:
        assert {job.phase for job in reader.jobs()} == {4}
    do_all(ready_workspace)
    with open_reader(ready_workspace) as reader:
        assert reader.phase(4).complete == 1
        assert reader.phase(4).domains[0].measurements["quality"].value == QUALITY


def test_two_names_of_the_same_files_are_one_base(phase_one: Workspace, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    use_base(phase_one, tmp_path / "copy", "Efficient-1B")
    edit_mapping(phase_one, "business", "Efficient-1B")
    found = service.plan_build(phase_one, 1)
    assert Counter(job.kind for job in found.missing()) == Counter(
        {"base": 2, "train": 2, "evaluate": 2, "adapter-convert": 2, "convert": 1, "imatrix": 1, "quantize": 1,
         "verify": 1, "package": 1}
    )  # fmt: skip
    (packaged,) = [job for job in found.jobs.values() if job.kind == "package"]
    assert list(packaged.inputs["bases"]) == ["starter-135M"]
    assert {facts["base"] for facts in packaged.params["domains"].values()} == {"starter-135M"}
    unified = service.plan_build(phase_one, 1, service.Asked(merge=MergeWish("unified")))
    assert Counter(job.kind for job in unified.missing())["unify"] == 1


def gguf_base(workspace: Workspace, file: Path) -> None:
    """Map the starter base to a GGUF file; nothing reads more of it than its first bytes."""
    file.write_bytes(b"GGUF and no more")
    path = workspace.configs / "model_mapping.json"
    mapping = json.loads(path.read_text("utf-8"))
    about = {name: mapping["models"]["starter-135M"][name] for name in ("architecture", "parameters", "context_length")}
    mapping["models"]["starter-135M"] = {"kind": "gguf", "gguf_file": str(file), "licence": "none", **about}
    path.write_text(json.dumps(mapping), "utf-8")


def test_a_gguf_base_may_stay_as_it_is(phase_one: Workspace, tmp_path: Path) -> None:
    as_is = service.Asked(quantization="as-is")
    before = contents(phase_one)
    with pytest.raises(Refused, match="starter-135M is no GGUF file but a folder of weights"):
        service.build_phase(phase_one, 1, as_is)
    gguf_base(phase_one, tmp_path / "own.gguf")
    for other, why in (
        (service.Asked("as-is", "hybrid"), "hybrid makes another"),
        (service.Asked("as-is", merge=MergeWish("exact")), "--merge exact writes other weights"),
    ):
        with pytest.raises(Refused, match=why):
            service.build_phase(phase_one, 1, other)
    assert contents(phase_one) == before
    found = service.plan_build(phase_one, 1, as_is)
    kinds = Counter(job.kind for job in found.missing())
    assert (kinds["keep"], kinds["quantize"], kinds["imatrix"], kinds["convert"]) == (1, 0, 0, 1)
    service.build_phase(phase_one, 1, as_is)
    do_all(phase_one)
    with open_reader(phase_one) as reader:
        phase = reader.phase(1)
        assert (phase.quantization, phase.state) == ("as-is", "compressing")
        assert phase.bundle_path is not None
    assert not service.plan_build(phase_one, 1).missing()
    with pytest.raises(Refused, match="it cannot be the base's file as-is"):
        service.export_domain(phase_one, "healthcare", "as-is")


def test_what_is_left_of_a_merged_domain_is_measured_and_shown(built: Workspace) -> None:
    ids, path = service.export_domain(built, "healthcare", "Q4_K_M")
    do_all(built)
    with open_reader(built) as reader:
        assert "kept-change" in {job.kind for job in reader.jobs(ids=ids)}
        row = next(row for row in reader.artifacts(kind="gguf") if built.absolute(row["path"]) == path)
        assert row["kind"] == "gguf"
        assert kept_changes(reader, reader.phase(1)) == []  # its bundle has adapters
    service.build_phase(built, 1, service.Asked(merge=MergeWish("exact")))
    do_all(built)
    with open_reader(built) as reader:
        assert [one["domain"] for one in kept_changes(reader, reader.phase(1))] == ["healthcare", "business"]
