"""Phases whose domains are merged: their plans, what is made again after a change, and what is remembered."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.cli.merging import checks_json
from core.errors import InvalidInput
from core.phases import service
from core.phases.merging import MergeWish
from core.phases.outlook import outlook_of_phase
from core.phases.planned import Plan, PlannedJob
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Phase
from core.store.views import PhaseView
from core.workspace import Workspace
from tests.core.conftest import DOMAINS
from tests.imitate import FAILED, do_all, do_job, ready

EXACT, UNIFIED = MergeWish("exact"), MergeWish("unified")


def kinds(plan: Plan) -> Counter[str]:
    return Counter(job.kind for job in plan.missing())


def one(plan: Plan, kind: str) -> PlannedJob:
    (found,) = [job for job in plan.jobs.values() if job.kind == kind]
    return found


def phase_of(workspace: Workspace) -> PhaseView:
    with open_reader(workspace) as reader:
        return reader.phase(1)


def test_exact_is_a_model_a_domain_and_no_adapters(built: Workspace) -> None:
    plan = service.plan_build(built, 1, service.Asked(merge=EXACT))
    made = {"merge": 2, "convert": 2, "imatrix": 2, "quantize": 2, "kept-change": 2, "verify": 1, "package": 1}
    assert kinds(plan) == Counter(made)
    packaged = one(plan, "package")
    names = [f"starter-135M+{name}" for name in DOMAINS]
    assert sorted(packaged.inputs["bases"]) == sorted(names)
    assert packaged.inputs["adapters"] == {}
    assert packaged.params["merge"] == {"mode": "exact"}
    assert {name: facts["base"] for name, facts in packaged.params["domains"].items()} == dict(
        zip(DOMAINS, names, strict=True)
    )
    exported = service.export_domain(built, "healthcare", "Q4_K_M")[1]
    assert exported in {job.out for job in plan.jobs.values()}  # the same file as an export of the domain


def test_unified_is_judged_before_it_is_converted(built: Workspace) -> None:
    plan = service.plan_build(built, 1, service.Asked(merge=UNIFIED))
    assert kinds(plan) == Counter(
        {"unify": 1, "check-merge": 1, "accept-merge": 1, "convert": 1, "imatrix": 1, "quantize": 1, "verify": 1,
         "package": 1}
    )  # fmt: skip
    (convert,) = [job for job in plan.missing() if job.kind == "convert"]
    assert one(plan, "accept-merge").key in convert.needs
    assert convert.params["_parents"] == [one(plan, "unify").key]
    assert one(plan, "unify").params["weights"] == dict.fromkeys(DOMAINS, 1.0)
    assert one(plan, "package").params["merge"]["recipes"]["starter-135M+unified"]["method"] == "ties"
    seen: set[str] = set()
    for job in plan.jobs.values():
        assert set(job.needs) <= seen
        seen.add(job.key)
        assert job.done or (job.expected is not None and job.need.memory > 0)
    assert [one.job.kind for one in outlook_of_phase(built, 1, merge=UNIFIED).jobs][:3] == [
        "unify", "check-merge", "accept-merge"
    ]  # fmt: skip


def test_another_margin_is_only_judged_again_and_another_method_merged_again(built: Workspace) -> None:
    service.build_phase(built, 1, service.Asked(merge=UNIFIED))
    do_all(built)
    assert kinds(service.plan_build(built, 1)) == Counter()
    assert phase_of(built).state == "compressing"
    wider = service.plan_build(built, 1, service.Asked(merge=MergeWish(margin=0.5)))
    assert kinds(wider) == Counter({"accept-merge": 1, "package": 1})
    other = service.plan_build(built, 1, service.Asked(merge=MergeWish(method="cat")))
    assert kinds(other)["unify"] == kinds(other)["check-merge"] == kinds(other)["quantize"] == 1
    assert (
        kinds(service.plan_build(built, 1, service.Asked(merge=MergeWish("none")))) == Counter()
    )  # the first bundle is there still


def test_a_refusal_packages_nothing_and_a_wider_margin_goes_on(built: Workspace) -> None:
    service.build_phase(built, 1, service.Asked(merge=MergeWish("unified", margin=0.001)))
    store = open_store(built)
    states: dict[str, str] = {}
    while jobs := ready(store):
        how = FAILED if jobs[0].kind == "accept-merge" else None
        assert jobs[0].id is not None
        states[jobs[0].kind] = do_job(store, jobs[0].id, how) if how else do_job(store, jobs[0].id)
    assert states == {"unify": "succeeded", "check-merge": "succeeded", "accept-merge": "failed"}
    assert (phase_of(built).state, phase_of(built).bundle_path) == ("failed", None)
    with open_reader(built) as reader:
        (row, _) = checks_json(reader, reader.phase(1))["unified"]["starter-135M"]
    assert (row["verdict"], row["change"]) == ("loses", pytest.approx(0.005))  # what was measured is kept
    service.build_phase(built, 1, service.Asked(merge=MergeWish(margin=0.1)))
    do_all(built)
    found = phase_of(built)
    assert (found.state, found.merge, found.merge_method, found.merge_margin) == ("compressing", "unified", "ties", 0.1)
    assert found.bundle_path is not None


def test_settings_of_a_method_count_for_that_method_alone(built: Workspace) -> None:
    before = {method: one(service.plan_build(built, 1, service.Asked(merge=MergeWish("unified", method))), "unify").key
              for method in ("ties", "cat", "dare", "linear")}  # fmt: skip
    path = built.configs / "settings.yaml"
    path.write_text(path.read_text().replace("ties_density: 0.2 ", "ties_density: 0.3 "))
    after = {method: one(service.plan_build(built, 1, service.Asked(merge=MergeWish("unified", method))), "unify").key
             for method in before}  # fmt: skip
    assert {method for method in before if before[method] != after[method]} == {"ties"}
    assert len(set(before.values())) == 4


def test_a_base_with_one_domain_is_merged_exactly(ready_workspace: Workspace) -> None:
    service.create_phase(ready_workspace, 1, DOMAINS[:1], merge=UNIFIED)
    found = kinds(service.plan_build(ready_workspace, 1))
    assert (found["unify"], found["merge"], found["kept-change"]) == (0, 1, 1)


def test_what_was_said_is_remembered_and_what_was_not_stays(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1, service.Asked(merge=MergeWish("unified", "dare", 0.07)))
    service.build_phase(phase_one, 1)
    assert (phase_of(phase_one).merge_method, phase_of(phase_one).merge_margin) == ("dare", 0.07)
    service.build_phase(phase_one, 1, service.Asked(merge=MergeWish(method="linear")))
    assert (phase_of(phase_one).merge_method, phase_of(phase_one).merge_margin) == ("linear", 0.07)
    service.build_phase(phase_one, 1, service.Asked(merge=MergeWish("none")))
    found = phase_of(phase_one)
    assert (found.merge, found.merge_method, found.merge_margin) == ("none", None, None)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (MergeWish("soup"), "unknown merge soup"),
        (MergeWish("unified", "soup"), "unknown merge method soup"),
        (MergeWish("unified", margin=-0.1), "a margin is a share"),
        (MergeWish("unified", margin=math.nan), "a margin is a share"),
        (MergeWish("unified", margin=math.inf), "a margin is a share"),
        (MergeWish(method="ties"), "--merge-method is for --merge unified, and this is none"),
        (MergeWish("exact", margin=0.1), "--margin is for --merge unified, and this is exact"),
    ],
)
def test_bad_wishes_change_nothing(phase_one: Workspace, wish: MergeWish, message: str) -> None:
    for ask in (service.build_phase, service.plan_build):
        with pytest.raises(InvalidInput, match=message):
            ask(phase_one, 1, service.Asked(merge=wish))
    with pytest.raises(InvalidInput, match=message):
        outlook_of_phase(phase_one, 1, merge=wish)
    with pytest.raises(InvalidInput, match=message):
        service.create_phase(phase_one, 2, [], merge=wish)
    assert phase_of(phase_one).merge == "none"


@pytest.mark.parametrize("bad", ["margin: -1", "margin: much", "ties_density: 0", "dare_drop: 1", "cat_rank: 1.5"])
def test_bad_settings_are_faults(phase_one: Workspace, bad: str) -> None:
    path = phase_one.configs / "settings.yaml"
    name = bad.partition(":")[0]
    lines = [f"  {bad}" if line.startswith(f"  {name}:") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InvalidInput, match=f"merging.{name}"):
        service.plan_build(phase_one, 1)


def test_it_comes_back_when_the_store_is_made_anew(built: Workspace, tmp_path: Path) -> None:
    from core.rebuild.phases import add_phases

    service.build_phase(built, 1, service.Asked(merge=MergeWish("unified", "linear", 0.3)))
    do_all(built)
    specs: list[dict[str, Any]] = [json.loads(path.read_text()) for path in built.runs.glob("*/spec.json")]
    newest = sorted(specs, key=lambda spec: -spec["job_id"])
    for known in (True, False):  # with the row as it was when the job started, and by what the job was told alone
        fresh = Workspace(tmp_path / str(known))
        fresh.root.mkdir()
        told = newest if known else [{**spec, "store": {}} for spec in newest]
        with open_store(fresh).write() as session:
            add_phases(session, built, told, [])
            row = session.get(Phase, 1)
            assert row is not None
            assert (row.merge, row.merge_method) == ("unified", "linear")
            assert row.merge_margin == (0.3 if known else None)
