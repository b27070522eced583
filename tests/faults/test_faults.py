"""A short run of the fault harness; `make faults` does a long one."""

from pathlib import Path

import pytest
from sqlmodel import col, select

from tests.conftest import end_everything
from tests.faults.__main__ import run
from tests.faults.check import broken_promises
from tests.faults.faults import FAULTS
from tests.faults.scene import Scene, build

SEED = 474  # draws every fault there is within the first twenty


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Scene:
    return build(tmp_path_factory.mktemp("faults"), tiny_llama, synthetic=6, trainings=1, steps=60)


def test_nothing_is_lost_doubled_or_untrue(scene: Scene) -> None:
    try:
        found = run(scene, faults=20, seed=SEED, mean_s=0.4, patience_s=240)
    finally:
        end_everything(scene.workspace)
    assert found["broken"] == []
    assert found["states"] == {"succeeded": 8}  # six, a training and its evaluation
    assert set(found["by_kind"]) == set(FAULTS)  # type: ignore[call-overload]
    assert str(found["disk"]).startswith("not run")  # the disk is test_small_disk's


def test_the_checker_sees_what_is_broken(scene: Scene) -> None:
    """It must be able to fail: every kind of lie is put into the finished workspace, and found."""
    from core.store.engine import open_store
    from core.store.tables import Artifact, Job, JobAttempt

    root, number = scene.workspace.root, scene.accepted[0]
    assert broken_promises(scene) == []
    with open_store(scene.workspace).write() as session:
        job, attempt = session.get(Job, number), session.get(JobAttempt, (scene.accepted[1], 1))
        assert job is not None
        assert attempt is not None
        job.state = "running"
        attempt.exit_code = 5 if attempt.exit_code is None else attempt.exit_code + 1
        path = session.exec(
            select(Artifact.path).where(Artifact.kind == "adapter").order_by(col(Artifact.id).desc())
        ).first()
        assert path is not None
    (root / "runs" / "99999").mkdir()
    (root / "artifacts" / "adapter" / ".tmp-1-x").mkdir()
    weights = scene.workspace.absolute(path) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    scene.accepted.append(99998)
    text = "\n".join(broken_promises(scene))
    for words in (
        f"job {number} (",
        "job 99998 is lost",
        "happened",
        "no attempt owns runs/99999",
        "left behind: artifacts/adapter/.tmp-1-x",
        "differs from its manifest",
    ):
        assert words in text, words
