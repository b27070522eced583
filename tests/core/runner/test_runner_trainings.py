"""Real trainings of a tiny base under the real runner: paused, killed, short of memory, and what becomes of them."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from core.errors import Refused
from core.files import sha256_of
from core.memory import available_memory
from core.phases.service import train_domain
from core.runner.client import cancel_jobs, ensure_runner, pause_jobs, resume_jobs
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Artifact
from core.workspace import Workspace
from tests.conftest import end_everything, new_workspace
from tests.core.cli.command import tara
from tests.core.runner.watch import at_once, attempts, in_state, kill_runner, over, processes, until, view

STEPS = 120


def start_training(workspace: Workspace, name: str, steps: int = STEPS) -> int:
    """Queue a training of many quick steps, a checkpoint every five; its number. Its evaluation is cancelled."""
    presets = workspace.configs / "presets.yaml"
    text = presets.read_text("utf-8")
    many = text[text.index("\nultra:") : text.index("\ngpu:")].replace("ultra", name, 1)
    many = many.replace("epochs: 1\n", "epochs: 1000\n").replace("max_steps: 200", f"max_steps: {steps}")
    many = many.replace("save_steps: 20", "save_steps: 5").replace("batch_size: 1", "batch_size: 4")
    presets.write_text(text + many, "utf-8")
    numbers = train_domain(workspace, "healthcare", preset=name)
    with open_reader(workspace) as reader:
        kinds = {job.kind: job.id for job in reader.jobs(ids=numbers)}
    cancel_jobs(workspace, [kinds["evaluate"]])
    return kinds["train"]


def steps_of(workspace: Workspace, job_id: int) -> int:
    return view(workspace, job_id).step or 0


def result(workspace: Workspace, job_id: int) -> dict[str, object]:
    with open_reader(workspace) as reader:
        return reader.result(job_id)


def adapter(workspace: Workspace, number: int) -> str:
    with open_store(workspace).write() as session:
        (found,) = session.exec(select(Artifact).where(Artifact.job_id == number)).all()
        return sha256_of(workspace.absolute(found.path) / "adapter_model.safetensors")


def adapter_job(workspace: Workspace, sha256: str) -> int:
    """The training that made an adapter."""
    with open_store(workspace).write() as session:
        numbers = [one.job_id for one in session.exec(select(Artifact).where(Artifact.kind == "adapter")).all()]
    return next(number for number in numbers if number is not None and adapter(workspace, number) == sha256)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Workspace]:
    """A workspace with a tiny base for all of these; what is started again by itself does not wait."""
    workspace = new_workspace(tmp_path_factory.mktemp("trainings") / "workspace", tiny_llama)
    at_once(workspace)
    yield workspace
    end_everything(workspace)


@pytest.fixture(scope="module")
def alone(tiny: Workspace) -> str:
    """The adapter of a training that nobody disturbed."""
    number = start_training(tiny, "alone")
    assert over(tiny, number, within=120).state == "succeeded"
    assert not list(tiny.checkpoints.glob("healthcare-*"))  # the adapter is safe, so they are gone
    return adapter(tiny, number)


def test_what_was_predicted_of_a_training_is_held_against_what_it_took(tiny: Workspace, alone: str) -> None:
    number = adapter_job(tiny, alone)
    answer = tara("plan", "check", "--json", cwd=tiny.root).json()
    found = {job["job"]: job for job in answer["jobs"]}[number]
    assert found["predicted_by"] in ("probe", "measured") or found["predicted_by"].startswith("scaled from ")
    assert found["memory_error"] == pytest.approx(found["memory_bytes"] / found["predicted_memory_bytes"] - 1)
    assert found["seconds_error"] == pytest.approx(found["seconds"] / found["predicted_seconds"] - 1)
    assert -0.6 < found["memory_error"] < 0.5
    assert "train" in {kind["kind"] for kind in answer["kinds"]}
    shown = tara("jobs", "show", str(number), cwd=tiny.root).out
    (line,) = [line for line in shown.splitlines() if line.startswith("predicted: ")]
    assert line.count("%)") == 2, line
    plain = tara("plan", "check", cwd=tiny.root).out
    assert "median error" in plain
    assert all(len(line) <= 80 for line in plain.splitlines()), plain
    presets = tiny.configs / "presets.yaml"
    text = presets.read_text("utf-8")
    again = text[text.index("\nalone:") :].partition("\n\n")[0].replace("alone", "again", 1)
    presets.write_text(text + again.replace("learning_rate: 3.0e-4", "learning_rate: 2.0e-4") + "\n", "utf-8")
    ahead = tara("plan", "domain", "healthcare", "--preset", "again", "--json", cwd=tiny.root).json()
    train = next(job for job in ahead["jobs"] if job["kind"] == "train")
    assert (train["seconds_by"], train["memory_by"]) == ("measured", "measured")
    assert train["memory_bytes"] >= found["memory_bytes"]


def start_training_again(workspace: Workspace, number: int) -> None:
    """Have a new runner take over."""
    ensure_runner(workspace)
    assert view(workspace, number).active


def test_killed_at_random_instants_it_ends_with_the_same_adapter(tiny: Workspace, alone: str) -> None:
    order = random.Random(11)
    number = start_training(tiny, "killed")
    for target in (20, 70):
        until(lambda target=target: steps_of(tiny, number) >= target, "it gets on", within=120)
        who = processes(tiny.root / str(view(tiny, number).run_dir))
        victims = [who["job"]["pid"], who["pid"]]
        order.shuffle(victims)
        if order.random() < 0.5:
            kill_runner(tiny)
            start_training_again(tiny, number)
        for pid in victims[: order.randint(1, 2)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # the other's end took it along
    assert over(tiny, number, within=180).state == "succeeded"
    assert adapter(tiny, number) == alone
    assert int(str(result(tiny, number)["resumed_from"])) >= 65
    ends = attempts(tiny, number)
    assert ends[-1][0] == "succeeded"
    assert {end[0] for end in ends[:-1]} == {"retried"}


def test_a_paused_training_goes_on_from_where_it_was(tiny: Workspace, alone: str) -> None:
    number = start_training(tiny, "paused")
    with pytest.raises(Refused, match="not paused"):
        resume_jobs(tiny, [number])
    until(lambda: steps_of(tiny, number) >= 12, "it gets on", within=120)
    assert pause_jobs(tiny, [number]) == [number]
    paused = in_state(tiny, number, "paused")
    assert (paused.exit_code, paused.hint) == (143, f"tara jobs resume {number}")
    reached = paused.step or 0
    (newest, *_) = sorted(tiny.checkpoints.glob("healthcare-*/step-*"), reverse=True)
    assert newest.name == f"step-{reached:08d}"  # saved where it stood, not where it last saved by itself
    log = (tiny.root / str(paused.run_dir) / "log").read_text()
    assert f"stopped at step {reached} of {STEPS}, checkpoint kept" in log
    with pytest.raises(Refused, match="nothing to pause"):
        pause_jobs(tiny, [number])
    resume_jobs(tiny, [number])
    assert over(tiny, number, within=120).state == "succeeded"
    assert result(tiny, number)["resumed_from"] == reached
    assert adapter(tiny, number) == alone


def test_a_queued_job_is_paused_at_once_and_a_paused_one_cancelled(tiny: Workspace) -> None:
    numbers = train_domain(tiny, "business")
    last = max(numbers)
    pause_jobs(tiny, [last])
    assert view(tiny, last).state == "paused"
    cancel_jobs(tiny, [last])
    assert view(tiny, last).state == "cancelled"


def test_a_training_short_of_memory_is_ended_and_tried_smaller(tiny: Workspace) -> None:
    settings = tiny.configs / "settings.yaml"
    number = start_training(tiny, "short", steps=100_000)
    until(lambda: steps_of(tiny, number) >= 5, "it gets on", within=120)
    usual = settings.read_text("utf-8")
    # As if the machine had 100 MB less than half of the reserve.
    reserve = 2 * (available_memory()[0] + 100_000_000) // 10**6
    short = usual.replace("memory_reserve_mb: 500", f"memory_reserve_mb: {reserve}")
    # The next attempt waits, so that the machine has its memory back when it is planned.
    settings.write_text(short.replace("retry_delay_s: 0 ", "retry_delay_s: 5 "), "utf-8")
    until(lambda: view(tiny, number).smaller == 1, "it was ended", within=60)
    settings.write_text(usual, "utf-8")
    first = attempts(tiny, number)[0]
    assert first == ("retried", "memory", None, 9)
    told = json.loads((tiny.run_folder(number, 1) / "killed.json").read_text())
    assert told["why"] == "memory"
    assert told["rss_bytes"] > 50_000_000
    until(lambda: "going on from step" in _log(tiny, number), "the smaller attempt goes on", within=60)
    assert "for lack of memory before: 2 examples at once in place of 4" in _log(tiny, number)
    cancel_jobs(tiny, [number])
    assert over(tiny, number).state == "cancelled"


def _log(workspace: Workspace, number: int) -> str:
    path = Path(workspace.root / str(view(workspace, number).run_dir or "none") / "log")
    return path.read_text() if path.is_file() else ""
