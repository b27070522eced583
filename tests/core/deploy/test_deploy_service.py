"""Deploying and rolling back: the guards, what is recorded, and that the record and the folder agree."""

import json
from pathlib import Path

import pytest

from core.deploy.current import release_folder
from core.deploy.manifest import read_manifest
from core.deploy.releases import active_version, versions_in
from core.deploy.service import deploy_phase, rollback
from core.errors import InvalidInput, Refused
from core.phases import declaring, service
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Phase
from core.store.views import PhaseView
from core.workspace import Workspace
from tests.imitate import FAILED, chat_lines, contents, do_all, do_job, ready, tree


def phase(workspace: Workspace, number: int = 1) -> PhaseView:
    with open_reader(workspace) as reader:
        return reader.phase(number)


def deploy(workspace: Workspace, target: Path | None = None) -> None:
    assert deploy_phase(workspace, 1, target=target) is not None
    do_all(workspace)


def rebuild(workspace: Workspace, answer: str) -> None:
    chat_lines(workspace.data / "business.jsonl", answer=answer)
    service.build_phase(workspace, 1)
    do_all(workspace)


def threshold(workspace: Workspace, value: float) -> None:
    with open_store(workspace).write() as session:
        row = session.get(Phase, 1)
        assert row is not None
        row.quality_threshold = value


@pytest.fixture
def twice(built: Workspace) -> Workspace:
    """Phase 1 deployed twice to its usual target."""
    deploy(built)
    rebuild(built, "second")
    deploy(built)
    return built


def test_deploying_records_a_release(built: Workspace) -> None:
    deploy(built)
    found = phase(built)
    (release,) = found.releases
    target = built.releases / "phase-1"
    assert (release.version, release.active, release.target) == (1, True, str(target))
    assert release.bundle == found.bundle_path
    assert release.bytes == sum(path.stat().st_size for path in (target / "current").iterdir() if path.is_file()) + sum(
        path.stat().st_size for path in (target / "current" / "adapters").iterdir()
    )
    assert found.state == "deployed"
    assert "advance-phase" in found.next_step
    assert release_folder(built, 1) == target / "versions" / "1"
    manifest = json.loads((target / "current" / "manifest.json").read_text())
    assert set(manifest["domains"]) == {"business", "healthcare"}


def test_deploying_the_same_again_does_nothing(built: Workspace) -> None:
    deploy(built)
    rows, files = contents(built), tree(built.root)
    assert deploy_phase(built, 1) is None
    assert (contents(built), tree(built.root)) == (rows, files)


def test_a_second_deployment_is_a_second_version(twice: Workspace) -> None:
    target = twice.releases / "phase-1"
    assert (versions_in(target), active_version(target)) == ([1, 2], 2)
    assert [(one.version, one.active) for one in phase(twice).releases] == [(2, True), (1, False)]


def test_a_newer_build_is_not_yet_deployed(built: Workspace) -> None:
    deploy(built)
    rebuild(built, "second")
    assert phase(built).state == "deployed"
    assert phase(built).next_step.startswith("deploy-phase 1")


def test_asking_twice_queues_once(built: Workspace) -> None:
    first = deploy_phase(built, 1)
    assert deploy_phase(built, 1) == first
    assert len(ready(open_store(built))) == 1


def test_several_targets(built: Workspace, tmp_path: Path) -> None:
    deploy(built)
    deploy(built, tmp_path / "there")
    found = phase(built).releases
    assert {(one.target, one.version, one.active) for one in found} == {
        (str(built.releases / "phase-1"), 1, True),
        (str(tmp_path / "there"), 1, True),
    }
    assert rollback_refused(built, tmp_path / "there") == (
        f"{tmp_path / 'there'} has no version before 1 — deploy again after a change"
    )


def rollback_refused(workspace: Workspace, target: Path | None = None, to: int | None = None) -> str:
    """A rollback that is refused and changes nothing; what was said."""
    rows, files = contents(workspace), tree(workspace.root)
    with pytest.raises((Refused, InvalidInput)) as caught:
        rollback(workspace, 1, target=target, to=to)
    assert (contents(workspace), tree(workspace.root)) == (rows, files)
    return caught.value.one_line()


def test_an_unbuilt_phase_is_not_deployed(phase_one: Workspace) -> None:
    rows, files = contents(phase_one), tree(phase_one.root)
    with pytest.raises(Refused, match="phase 1 has no built bundle"):
        deploy_phase(phase_one, 1)
    with pytest.raises(InvalidInput, match="no phase 2"):
        deploy_phase(phase_one, 2)
    with pytest.raises(Refused, match="never deployed"):
        rollback(phase_one, 1)
    assert (contents(phase_one), tree(phase_one.root)) == (rows, files)
    service.build_phase(phase_one, 1)
    with pytest.raises(Refused, match="are not done"):
        deploy_phase(phase_one, 1)


def test_targets_are_checked_before_anything_is_queued(built: Workspace, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    rows = contents(built)
    with pytest.raises(Refused, match="not empty"):
        deploy_phase(built, 1, target=tmp_path / "full")
    with pytest.raises(InvalidInput, match="not a folder"):
        deploy_phase(built, 1, target=tmp_path / "full" / "thesis.txt")
    assert contents(built) == rows


def test_another_phases_target_is_refused(built: Workspace, tmp_path: Path) -> None:
    target = tmp_path / "target"
    deploy(built, target)
    chat_lines(built.data / "education.jsonl")
    service.create_phase(built, 2, ["education"])
    service.build_phase(built, 2)
    do_all(built)
    rows, files = contents(built), tree(target)
    with pytest.raises(Refused, match="holds the releases of phase 1"):
        deploy_phase(built, 2, target=target)
    assert (contents(built), tree(target)) == (rows, files)
    rebuild(built, "second")
    deploy(built, target)
    assert deploy_phase(built, 2) is not None
    do_all(built)
    rows, files = contents(built), tree(target)
    with pytest.raises(Refused, match="holds the releases of phase 1"):
        rollback(built, 2, target=target)
    assert (contents(built), tree(target)) == (rows, files)


def test_the_quality_gate_and_its_override(built: Workspace) -> None:
    threshold(built, 0.9)
    rows, files = contents(built), tree(built.root)
    with pytest.raises(Refused, match=r"below the quality threshold 0\.9 of phase 1: .*healthcare 0\.500") as caught:
        deploy_phase(built, 1)
    assert "business 0.500" in caught.value.message
    assert (contents(built), tree(built.root)) == (rows, files)
    declaring.update_domain(built, "business", quality=0.99)  # a word for it is no measurement
    declaring.update_domain(built, "healthcare", quality=0.99)
    with pytest.raises(Refused, match="below the quality threshold"):
        deploy_phase(built, 1)
    assert deploy_phase(built, 1, override_quality="a trial for the team") is not None
    note = declaring.notes(built)[0]
    assert (note["action"], note["reason"]) == ("override-quality", "a trial for the team")
    below = [f"{name} 0.500 measured (declared 0.99 does not count)" for name in ("healthcare", "business")]
    assert note["below"] == below
    do_all(built)
    (release,) = phase(built).releases
    assert phase(built).state == "deployed"
    manifest = read_manifest(Path(release.target) / "current")
    assert manifest["override_quality"] == {"reason": "a trial for the team", "threshold": 0.9, "below": below}
    assert deploy_phase(built, 1, override_quality="again") is None  # it is there, whole


def test_a_gate_that_is_met_asks_nothing(built: Workspace) -> None:
    threshold(built, 0.5)
    deploy(built)
    assert not declaring.notes(built)


def test_the_gate_judges_the_bundle_not_what_was_trained_since(built: Workspace) -> None:
    threshold(built, 0.6)
    for name in ("business", "healthcare"):
        chat_lines(built.data / f"{name}.jsonl", answer="better")
        service.train_domain(built, name)
    do_all(built, quality=0.9)
    assert all(domain.measurements["quality"].value == 0.9 for domain in phase(built).domains)
    with pytest.raises(Refused, match=r"business 0\.500"):
        deploy_phase(built, 1)
    service.build_phase(built, 1)
    do_all(built, quality=0.9)
    manifest = read_manifest(built.absolute(phase(built).bundle_path or "absent"))
    assert manifest["domains"]["business"]["measurements"]["quality"] == 0.9
    deploy(built)


def test_a_domain_that_was_not_measured_does_not_pass(built: Workspace) -> None:
    threshold(built, 0.1)
    manifest = built.root / (phase(built).bundle_path or "absent") / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["domains"]["business"]["measurements"]["quality"]
    manifest.write_text(json.dumps(told))
    with pytest.raises(Refused, match="business not measured"):
        deploy_phase(built, 1)


def test_a_blocked_retraining_does_not_hold_a_built_phase_back(built: Workspace) -> None:
    store = open_store(built)
    chat_lines(built.data / "business.jsonl", answer="worse")
    service.train_domain(built, "business")
    with pytest.raises(Refused, match="are not done"):
        deploy_phase(built, 1)
    (train,) = ready(store)
    assert train.id is not None
    do_job(store, train.id, FAILED)
    deploy(built)


def test_a_failed_deployment_is_asked_for_again(built: Workspace) -> None:
    store = open_store(built)
    number = deploy_phase(built, 1)
    assert number is not None
    do_job(store, number, FAILED)
    assert phase(built).state == "failed"
    assert "deploy-phase 1 again" in phase(built).next_step
    deploy(built)
    assert phase(built).state == "deployed"


def test_a_tampered_release_is_deployed_anew(built: Workspace) -> None:
    deploy(built)
    target = built.releases / "phase-1"
    next((target / "current").glob("base-*.gguf")).write_text("tampered")
    deploy(built)
    assert (versions_in(target), active_version(target)) == ([1, 2], 2)


def test_a_target_that_was_emptied_is_filled_again(built: Workspace, tmp_path: Path) -> None:
    deploy(built, tmp_path / "target")
    (tmp_path / "target").rename(tmp_path / "elsewhere")
    deploy(built, tmp_path / "target")
    assert active_version(tmp_path / "target") == 2  # a number is not given twice
    assert [(one.version, one.active) for one in phase(built).releases] == [(2, True), (1, False)]


def test_rolling_back_and_forth(twice: Workspace) -> None:
    target = twice.releases / "phase-1"
    assert rollback(twice, 1) == (2, 1, target)
    assert active_version(target) == 1
    assert [(one.version, one.active) for one in phase(twice).releases] == [(2, False), (1, True)]
    assert phase(twice).state == "deployed"
    assert release_folder(twice, 1) == target / "versions" / "1"
    assert declaring.notes(twice)[0]["action"] == "rollback"
    assert rollback_refused(twice) == f"{target} has no version before 1 — deploy again after a change"
    assert rollback_refused(twice, to=1) == "version 1 is the current one already"
    assert "has no version 7 — it has 1, 2" in rollback_refused(twice, to=7)
    assert rollback(twice, 1, to=2) == (1, 2, target)
    assert active_version(target) == 2


def test_a_tampered_version_is_not_rolled_back_to(twice: Workspace) -> None:
    folder = twice.releases / "phase-1" / "versions" / "1"
    adapter = folder / "adapters" / "business.gguf"
    kept = adapter.read_text()
    adapter.write_text(kept[::-1])
    assert "business.gguf differs from the manifest" in rollback_refused(twice)
    adapter.unlink()
    assert "business.gguf is missing" in rollback_refused(twice)
    adapter.write_text(kept)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"phase": 1', '"phase":  1'))
    assert "manifest.json is not what was deployed" in rollback_refused(twice)


def test_a_version_of_another_workspace_is_refused(twice: Workspace) -> None:
    target = twice.releases / "phase-1"
    (target / "versions" / "1").rename(target / "versions" / "0")
    assert "version 0 in" in rollback_refused(twice)


def test_a_target_without_current_version(twice: Workspace) -> None:
    (twice.releases / "phase-1" / "current").unlink()
    assert "has no current version" in rollback_refused(twice)


def test_a_link_that_cannot_be_switched_is_not_recorded(twice: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    rows, files = contents(twice), tree(twice.root)
    with monkeypatch.context() as patch:
        patch.setattr("core.deploy.releases.os.replace", fail)
        with pytest.raises(OSError, match="Read-only"):
            rollback(twice, 1)
    assert (contents(twice), tree(twice.root)) == (rows, files)


def test_a_rollback_that_cannot_be_recorded_is_not_switched(twice: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.deploy import service as deploying

    real = deploying.switch
    asked: list[int] = []

    def switch_and_fail(target: Path, version: int) -> None:
        real(target, version)
        asked.append(version)
        if len(asked) == 1:
            raise OSError(28, "No space left on device")

    rows, files = contents(twice), tree(twice.root)
    with monkeypatch.context() as patch:
        patch.setattr(deploying, "switch", switch_and_fail)
        with pytest.raises(OSError, match="No space"):
            rollback(twice, 1)
    assert asked == [1, 2]
    assert (contents(twice), tree(twice.root)) == (rows, files)


def test_advancing_needs_a_deployed_phase(built: Workspace) -> None:
    service.create_phase(built, 2, [])
    with pytest.raises(Refused, match="phase 1 is compressing"):
        declaring.advance_phase(built)
    deploy(built)
    assert declaring.advance_phase(built) == (1, 2)
    assert phase(built, 2).current
