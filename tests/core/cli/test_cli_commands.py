"""The commands that show and the small ones that do: output for people and for scripts, help, finding the workspace."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from core.cli.doctor import workspace_checks
from core.cli.group import COMMANDS, SHORT_HELP
from core.errors import ExitCode
from core.runner.admission import Need, most_disk
from core.runner.presence import runner_pid
from core.workspace import Workspace
from tests.conftest import ROOT, new_workspace, use_base
from tests.core.cli.command import TARA, Answer, assert_one_line, each, tara
from tests.core.runner.watch import add_job, over, source_folder
from tests.imitate import contents

SHOWING = (
    "list-phases",
    "show-phase 1",
    "jobs list",
    "jobs list --phase 1 --active --limit 1",
    "jobs show 1",
    "jobs wait",
    "runner status",
    "service status",
    "doctor",
    "clean-model adapter --dry-run",
    "validate adapter",
    "validate configs/starter_data/healthcare.jsonl",
    "build-phase 1 --dry-run",
    "plan phase 1",
    "plan domain business --preset ultra",
    "plan check",
    "cleanup-phase 1 --dry-run",
)


@pytest.fixture(scope="module")
def shown(settled: Workspace) -> dict[str, Answer]:
    """Every showing command, plain and with --json."""
    from tests.core.hygiene.folders import write_adapter

    write_adapter(settled.root / "adapter")
    rows = contents(settled)
    found = each([*SHOWING, *(f"{command} --json" for command in SHOWING)], settled.root)
    assert contents(settled) == rows
    assert runner_pid(settled) is None
    return found


@pytest.mark.parametrize("command", SHOWING)
def test_showing_command(shown: dict[str, Answer], command: str) -> None:
    plain, scripted = shown[command], shown[f"{command} --json"]
    assert plain.status == scripted.status, (plain, scripted)
    assert plain.status == 0 or command == "doctor", plain
    assert (plain.err, scripted.err) == ("", "")
    json.loads(scripted.out)
    assert "\x1b" not in plain.out


def test_what_json_says(shown: dict[str, Answer]) -> None:
    phases = shown["list-phases --json"].json()
    assert phases["current_phase"] == 1
    (phase,) = phases["phases"]
    assert [domain["name"] for domain in phase["domains"]] == ["healthcare", "business"]
    assert phase["domains"][0]["quality"] is None  # not measured is null, never a number
    job = shown["jobs show 1 --json"].json()
    assert (job["state"], job["error"], job["result"]) == ("failed", "no memory", {"steps": 3})
    assert [job["id"] for job in shown["jobs list --json"].json()] == [2, 1]
    assert shown["jobs list --json"].json()[0]["depends_on"] == [1]
    status = shown["runner status --json"].json()
    assert (status["pid"], status["log"], status["jobs"]) == (None, "runs/runner.log", {"blocked": 1})
    assert "go on" in status["after_logout"] or "logind ends" in status["after_logout"]
    assert status["after_reboot"] == shown["service status --json"].json()["after_reboot"]
    assert "not measured" in shown["show-phase 1"].out


def test_logs(settled: Workspace) -> None:
    commands = ("jobs logs 1", "jobs logs 1 -n 1", "jobs logs 1 -f")
    found = each(commands, settled.root)
    lines = found["jobs logs 1"].out.splitlines()
    assert lines[0] == "one"
    assert lines[2] == "three without an end"
    assert "\x1b" not in lines[1]
    assert "\x07" not in lines[1]
    assert found["jobs logs 1 -n 1"].out == "three without an end\n"
    # Following a job that is over ends, also where its last line has no end.
    assert found["jobs logs 1 -f"].out.splitlines() == lines


def test_every_command_has_help(settled: Workspace) -> None:
    assert set(SHORT_HELP) == set(COMMANDS)
    below = [f"jobs {name}" for name in ("list", "show", "logs", "wait", "pause", "resume", "cancel", "retry")]
    below += [f"plan {name}" for name in ("phase", "domain", "check")]
    below += [f"service {name}" for name in ("install", "status", "remove")]
    below += [f"runner {name}" for name in ("start", "stop", "status")]
    found = each(["--help", "-h", *(f"{name} --help" for name in (*COMMANDS, *below))], settled.root)
    for answer in found.values():
        assert (answer.status, answer.err) == (0, ""), answer
        assert answer.out.startswith("Usage: tara ")
    listed = [line.split()[0] for line in found["--help"].out.partition("Commands:")[2].splitlines() if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert found["--help"].out == found["-h"].out
    for name in ("jobs", "plan", "runner"):
        for command in below:
            if command.startswith(name):
                assert command.split()[1] in found[f"{name} --help"].out


def test_version_and_completion(outside: Path) -> None:
    import core

    found = each(("--version", "-V", "--root elsewhere --version", "completion bash", "jobs"), outside)
    for command in ("--version", "-V", "--root elsewhere --version"):
        assert found[command] == Answer(0, f"tara {core.__version__}\n", "")
    script = found["completion bash"]
    assert script.status == 0
    assert subprocess.run(["bash", "-n"], input=script.out, text=True, check=False).returncode == 0
    # What the script asks for, as bash does.
    words = {"COMP_WORDS": "tara show", "COMP_CWORD": "1", "_TARA_COMPLETE": "bash_complete"}
    assert "show-phase" in tara(cwd=outside, **words).out
    assert found["jobs"].status == ExitCode.USAGE  # a group without a command shows its help, as an error
    assert found["jobs"].out == ""


def test_where_the_workspace_is_found(settled: Workspace, outside: Path) -> None:
    inside = settled.configs / "starter_data"
    answers = [
        tara("list-phases", cwd=settled.root),
        tara("list-phases", cwd=inside),
        tara("list-phases", "--root", str(settled.root), cwd=outside),
        tara("--root", str(settled.root), "list-phases", cwd=outside),
        tara("list-phases", cwd=outside, TARA_ROOT=str(settled.root)),
        # A name given by hand is stronger than the variable, the variable than the current folder.
        tara("--root", str(settled.root), "list-phases", cwd=outside, TARA_ROOT=str(outside)),
        tara("list-phases", cwd=settled.root, TARA_ROOT=""),
    ]
    assert len({answer.out for answer in answers}) == 1, answers
    assert answers[0].status == 0
    assert "not a TARA workspace" in tara("list-phases", cwd=settled.root, TARA_ROOT=str(outside)).err


def test_init(outside: Path) -> None:
    made = tara("init", "new/place", cwd=outside)
    root = outside / "new" / "place"
    assert made.status == 0, made
    assert str(root) in made.out
    assert tara("list-phases", "--json", cwd=root).json() == {"current_phase": None, "phases": []}
    assert sorted(path.name for path in (root / "configs").iterdir()) == sorted(
        path.name for path in (ROOT / "configs").iterdir()
    )
    again = tara("init", "new/place", "--json", cwd=outside)
    assert_one_line(again, ExitCode.REFUSED)
    (outside / "file").touch()
    assert_one_line(tara("init", "file", cwd=outside), ExitCode.REFUSED)
    (outside / "theirs" / "configs").mkdir(parents=True)
    assert_one_line(tara("init", "theirs", cwd=outside), ExitCode.REFUSED)
    for place in ("/proc/tara", "file/below"):
        answer = tara("init", place, "--json", cwd=outside)
        assert_one_line(answer, ExitCode.ENVIRONMENT)
        assert "cannot be written" in answer.err
    assert tara("init", "json", "--json", cwd=outside).json() == {"root": str(outside / "json")}


def test_clean_model_and_following_it(workspace: Workspace) -> None:
    source_folder(workspace)
    done = tara("clean-model", "source", cwd=workspace.root)
    assert done.status == 0, done
    assert "clean source  succeeded" in done.out
    assert (workspace.root / "source_cleaned" / "clean_report.json").is_file()
    assert_one_line(tara("clean-model", "source", "--json", cwd=workspace.root), ExitCode.REFUSED)
    scripted = tara("clean-model", "source", "--output-path", "other", "--json", cwd=workspace.root).json()
    assert scripted["output"] == str(workspace.root / "other")
    assert tara("jobs", "logs", "1", cwd=workspace.root).out.splitlines()[-1].startswith("kept ")
    assert [job["state"] for job in tara("jobs", "wait", "1", "2", "--json", cwd=workspace.root).json()] == [
        "succeeded",
        "succeeded",
    ]


def test_runner_and_jobs_of_the_command_line(workspace: Workspace) -> None:
    assert tara("runner", "stop", "--json", cwd=workspace.root).json() == {"stopped": None}
    pid = tara("runner", "start", "--json", cwd=workspace.root).json()["pid"]
    assert tara("runner", "start", cwd=workspace.root).out == f"runner {pid}\n"
    assert tara("runner", "status", cwd=workspace.root).out.startswith(f"runner {pid}\njobs: none waiting\n")
    os.kill(pid, 0)
    assert tara("runner", "stop", cwd=workspace.root).out == f"runner {pid} stopped; running jobs go on\n"
    assert runner_pid(workspace) is None

    source = source_folder(workspace)
    shutil.rmtree(source)
    bad = add_job(workspace, source, workspace.root / "one")
    good = add_job(workspace, source, workspace.root / "two", needs=(bad,))
    waiting = subprocess.Popen(
        [str(TARA), "jobs", "wait"], cwd=workspace.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = waiting.communicate(timeout=60)  # it starts the runner that is missing
    assert waiting.returncode == ExitCode.FAILED
    assert "clean source  failed" in out
    assert err.splitlines()[0].startswith(f"tara: job {bad} (clean source) failed: {source}")
    assert err.splitlines()[1] == f"tara: its log: tara jobs logs {bad}"
    assert tara("jobs", "cancel", str(good), "--json", cwd=workspace.root).json() == {
        "cancelled": [good],
        "stopping": [],
    }
    source_folder(workspace)
    assert tara("jobs", "retry", str(good), str(bad), "--json", cwd=workspace.root).json() == {"queued": [good, bad]}
    followed = tara("jobs", "logs", "-f", str(good), cwd=workspace.root)
    assert (followed.status, followed.err) == (0, "")
    assert followed.out.splitlines()[-1].startswith("kept ")
    assert over(workspace, good).state == "succeeded"


def test_reader_of_a_pipe_leaves(settled: Workspace) -> None:
    done = subprocess.run(
        f"{TARA} list-phases --json | head -n 1", shell=True, cwd=settled.root, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_domains_without_data_are_named_when_they_come_in(workspace: Workspace) -> None:
    made = tara("create-phase", "1", "--domains", "healthcare,sleep", cwd=workspace.root)
    assert "no data yet for sleep: write data/sleep.jsonl" in made.out
    workspace.data.mkdir()
    (workspace.data / "sleep.jsonl").write_bytes((workspace.configs / "starter_data" / "healthcare.jsonl").read_bytes())
    added = tara("add-domain", "1", "business", cwd=workspace.root)
    assert "no data" not in added.out


def test_a_plan_that_does_not_fit_is_shown_whole_and_refused(
    tiny_workspace: Workspace, tiny_llama: Path, tmp_path: Path
) -> None:
    tara("create-phase", "1", "--domains", "healthcare,business", cwd=tiny_workspace.root)
    fits = tara("plan", "phase", "1", cwd=tiny_workspace.root)
    assert (fits.status, fits.err) == (0, ""), fits
    large = tmp_path / "large"  # by its config; its weights are not
    shutil.copytree(tiny_llama, large)
    config = json.loads((large / "config.json").read_text("utf-8"))
    config |= {"hidden_size": 2**17, "intermediate_size": 2**19, "num_hidden_layers": 2**12}
    (large / "config.json").write_text(json.dumps(config), "utf-8")
    use_base(tiny_workspace, large)
    plain = tara("plan", "phase", "1", cwd=tiny_workspace.root)
    scripted = tara("plan", "phase", "1", "--json", cwd=tiny_workspace.root)
    assert plain.status == scripted.status == ExitCode.REFUSED == 4
    assert all(len(line) <= 80 for answer in (plain, fits) for line in answer.out.splitlines()), plain
    found = json.loads(scripted.out)
    train = next(job for job in found["jobs"] if job["kind"] == "train")
    assert not found["fits"]
    assert (train["verdict"], train["memory_by"]) == ("does not fit", "estimated")
    assert "needs " in train["why"]
    assert "reserve 500 MB" in train["why"]
    assert "train healthcare, train business" in " ".join(plain.out.split())
    assert "none fits" in plain.out
    needs = [Need(disk=job["disk_bytes"], scratch=job["scratch_bytes"]) for job in found["jobs"]]
    assert found["total"]["disk_bytes"] == most_disk(needs)
    assert tara("jobs", "list", cwd=tiny_workspace.root).out == "no jobs\n"


def test_below_the_threshold_a_build_is_refused_in_one_line(built: Workspace) -> None:
    found = tara("build-phase", "1", "--quality-threshold", "0.9", cwd=built.root)
    assert_one_line(found, ExitCode.REFUSED)
    assert "below the quality threshold 0.9 of phase 1: healthcare 0.500 measured; business 0.500 measured" in found.err
    assert "--override-quality REASON (recorded)" in found.err
    wish = ("--quality-threshold", "0.9", "--override-quality", "a trial", "--dry-run", "--json")
    jobs = tara("build-phase", "1", *wish, cwd=built.root).json()["jobs"]
    assert [job["title"] for job in jobs if not job["done"]] == [
        "quality of phase 1, at least 0.9", "measure what phase 1 delivers",
        "quality of phase 1 as delivered, at least 0.9", "package phase 1",
    ]  # fmt: skip


def test_doctor_names_a_file_of_examples_that_cannot_be_read(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "workspace")
    (shown,) = [check for check in workspace_checks(workspace) if check.name == "examples"]
    assert shown.state == "ok"
    broken = workspace.configs / "examples" / "healthcare.txt"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"my kn\xe9e hurts\n")
    (shown,) = [check for check in workspace_checks(workspace) if check.name == "examples"]
    assert (shown.state, shown.fix) == ("missing", "save it as UTF-8")
    assert "healthcare.txt" in shown.found
