"""Whatever is wrong is said in one line on standard error, with the documented status, and nothing is changed."""

import json
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from core.errors import ExitCode
from core.files import sha256_of
from core.workspace import Workspace
from tests.core.cli.command import Answer, assert_one_line, each, tara
from tests.imitate import contents, tree

USAGE, BAD, REFUSED, LACKS = ExitCode.USAGE, ExitCode.BAD_INPUT, ExitCode.REFUSED, ExitCode.ENVIRONMENT
HUGE = "9" * 25

# command: status, and a word of the line
WRONG = {
    "no-such-command": (USAGE, "no-such-command"),
    "--no-such-option": (USAGE, "--no-such-option"),
    "show-phase": (USAGE, "PHASE_NUMBER"),
    "show-phase one --json": (USAGE, "'one'"),
    f"show-phase {HUGE} --json": (USAGE, "too large"),
    f"jobs show {HUGE}": (USAGE, "too large"),
    f"jobs cancel {HUGE} --json": (USAGE, "too large"),
    "jobs show abc --json": (USAGE, "'abc'"),
    "jobs logs 1 --lines 0": (USAGE, "--lines"),
    "completion tcsh": (USAGE, "'tcsh'"),
    "show-phase 9 --json": (BAD, "there is no phase 9 (phases: 1)"),
    "build-phase 9": (BAD, "there is no phase 9"),
    "cleanup-phase 9 --yes --json": (BAD, "there is no phase 9"),
    "cleanup-phase 1 --json": (BAD, "--yes"),
    "cleanup-phase 9 --undo": (BAD, "no phase 9"),
    "create-phase 0 --json": (BAD, "a phase number"),
    "create-phase 2 --domains healthcare,alchemy": (BAD, "'alchemy'"),
    "create-phase 2 --quantization Q9_K --json": (BAD, "Q9_K"),
    "create-phase 2 --quality-threshold 7": (BAD, "between 0 and 1"),
    "create-phase 2 --target-size nan": (BAD, "target size"),
    "create-phase 2 --compression-type magic": (BAD, "magic"),
    "create-phase 1 --domains education --json": (REFUSED, "exists already"),
    "update-domain healthcare --quality 7 --json": (BAD, "between 0 and 1"),
    "update-domain healthcare --status good": (BAD, "good"),
    "update-domain healthcare": (BAD, "nothing to update"),
    "update-domain education --quality 0.5": (REFUSED, "no phase"),
    "add-domain 1 alchemy": (BAD, "'alchemy'"),
    "add-domain 1 education --adapter-path missing --json": (BAD, "missing"),
    "add-domain 1 education --data missing.jsonl": (BAD, "missing.jsonl"),
    "train-domain alchemy": (BAD, "'alchemy'"),
    "train-domain education --preset fastest --json": (BAD, "'fastest'"),
    "train-domain education --data bad.jsonl": (BAD, "bad.jsonl"),
    "build-phase 1 --quantization Q9_K --dry-run": (BAD, "Q9_K"),
    "build-phase 1 --merge soup --dry-run": (BAD, "unknown merge soup"),
    "build-phase 1 --merge unified --merge-method soup": (BAD, "unknown merge method soup"),
    "build-phase 1 --merge unified --margin -1": (BAD, "a margin is a share"),
    "build-phase 1 --merge unified --margin nan --json": (BAD, "a margin is a share"),
    "build-phase 1 --merge unified --margin much": (USAGE, "'much'"),
    "build-phase 1 --merge-method ties --dry-run": (BAD, "--merge-method is for --merge unified, and this is none"),
    "create-phase 2 --merge exact --margin 0.1": (BAD, "--margin is for --merge unified, and this is exact"),
    "plan phase 1 --merge soup": (BAD, "unknown merge soup"),
    "plan phase 9 --json": (BAD, "there is no phase 9 (phases: 1)"),
    "plan phase 1 --quantization Q9_K": (BAD, "Q9_K"),
    "plan domain alchemy --json": (BAD, "'alchemy'"),
    "plan domain business --preset fastest": (BAD, "'fastest'"),
    "plan check --phase 9 --json": (BAD, "there is no phase 9"),
    "recommend 9 --json": (BAD, "there is no phase 9 (phases: 1)"),
    "recommend alchemy": (BAD, "'alchemy'"),
    "recommend 1 --quality good --json": (BAD, "a quality is a share such as 0.95, or a KL such as kl:0.05"),
    "recommend 1 --target-size 0": (BAD, "a target size"),
    "build-phase 1 --target-size nix": (USAGE, "neither a number of megabytes nor none"),
    "recommend 1 --memory nan --json": (BAD, "memory is a number of megabytes"),
    "build-phase 1 --quality-threshold 7": (BAD, "between 0 and 1"),
    "build-phase 1 --override-quality because": (BAD, "phase 1 has no quality threshold"),
    "export-domain education": (REFUSED, "not been trained"),
    "compare": (USAGE, "ARTIFACT"),
    "compare 77 --json": (BAD, "there is no artifact 77 (there is none yet)"),
    "compare phase:9": (BAD, "there is no phase 9 (phases: 1)"),
    "compare phase:one": (BAD, "phase:one"),
    "compare phase:1": (REFUSED, "no bundle"),
    "measure missing.gguf --json": (BAD, "missing.gguf"),
    "measure 77 --max-tokens 0": (USAGE, "--max-tokens"),
    "measure 77 --text missing.txt": (BAD, "missing.txt"),
    "measure phase:1": (REFUSED, "no bundle"),
    "deploy-phase 1 --json": (REFUSED, "no built bundle"),
    "rollback 1": (REFUSED, "never deployed"),
    "advance-phase --json": (REFUSED, "not deployed"),
    "clean-model missing --json": (BAD, "missing"),
    "clean-model half": (BAD, "half"),
    "validate missing --json": (BAD, "missing"),
    "validate bad.jsonl": (BAD, "bad.jsonl"),
    "jobs show 77 --json": (BAD, "there is no job 77"),
    "jobs logs 77": (BAD, "there is no job 77"),
    "jobs logs 2": (BAD, "has not started"),
    "jobs logs 2 -f": (BAD, "never started"),
    "jobs wait 77 --json": (BAD, "there is no job 77"),
    "jobs cancel 77": (BAD, "there is no job 77"),
    "jobs cancel 1 --json": (REFUSED, "already failed"),
    "jobs pause 77": (BAD, "there is no job 77"),
    "jobs pause 1 --json": (REFUSED, "job 1 (train healthcare) is failed: nothing to pause"),
    "jobs resume 1": (REFUSED, "job 1 (train healthcare) is failed, not paused"),
    "doctor --rebuild --json": (BAD, "--yes"),
    "doctor --yes": (USAGE, "--rebuild"),
    "jobs retry 2": (REFUSED, "job 2 (evaluate healthcare) is blocked"),
    "console": (LACKS, "needs a terminal"),
    "": (LACKS, "needs a terminal"),
}


@pytest.fixture(scope="module")
def answers(settled: Workspace) -> dict[str, Answer]:
    """What every wrong command says; the store and the files are as before."""
    rows, files = contents(settled), tree(settled.root)
    found = each(WRONG, settled.root)
    assert contents(settled) == rows
    assert tree(settled.root) == files
    return found


@pytest.mark.parametrize("command", WRONG)
def test_wrong_command(answers: dict[str, Answer], command: str) -> None:
    status, word = WRONG[command]
    assert_one_line(answers[command], status)
    assert word in answers[command].err


def test_waiting_for_what_did_not_succeed(settled: Workspace) -> None:
    answer = tara("jobs", "wait", "1", "2", "--json", cwd=settled.root)
    assert answer.status == ExitCode.FAILED
    assert [(job["id"], job["state"]) for job in json.loads(answer.out)] == [(1, "failed"), (2, "blocked")]
    assert answer.err.splitlines()[0] == "tara: job 1 (train healthcare) failed: no memory — use a smaller preset"


def test_question_not_answered(settled: Workspace) -> None:
    rows = contents(settled)
    answer = tara("cleanup-phase", "1", cwd=settled.root, stdin="")
    assert answer.status == ExitCode.REFUSED
    assert answer.err.splitlines()[-1] == "tara: not confirmed; nothing was changed"
    assert contents(settled) == rows


def test_no_workspace(outside: Path) -> None:
    (outside / "file").touch()
    commands = {
        "list-phases --json": "make one with `tara init DIR`",
        "jobs list": "make one with `tara init DIR`",
        "runner start --json": "make one with `tara init DIR`",
        "": "make one with `tara init DIR`",
        "list-phases --root missing": "is not a TARA workspace",
        "--root file jobs list": "is not a TARA workspace",
        "--root ~nobody-of-that-name list-phases": "is not a TARA workspace",
        f"--root {'x' * 300} list-phases": "File name too long",
    }
    for command, answer in each(commands, outside).items():
        assert_one_line(answer, BAD)
        assert commands[command] in answer.err
    named = tara("list-phases", cwd=outside, TARA_ROOT=str(outside / "elsewhere"))
    assert_one_line(named, BAD)
    assert "elsewhere is not a TARA workspace" in named.err
    assert sorted(path.name for path in outside.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("file", "text", "command", "word"),
    [
        ("universal_domains.yaml", "a: [", "create-phase 2", "universal_domains.yaml"),
        ("model_mapping.json", "{", "train-domain healthcare", "model_mapping.json"),
        ("presets.yaml", "starter: 5\n", "build-phase 1 --json", "presets.yaml"),
        ("settings.yaml", "runner: {heavy_slots: 0}\n", "runner start --json", "heavy_slots"),
    ],
)
def test_malformed_configs(workspace: Workspace, file: str, text: str, command: str, word: str) -> None:
    (workspace.configs / file).write_text(text)
    answer = tara(*command.split(), cwd=workspace.root)
    assert_one_line(answer, BAD)
    assert word in answer.err
    assert not any(contents(workspace, without=("alembic_version",)).values())


def test_store_of_a_newer_program_is_not_touched(workspace: Workspace) -> None:
    assert tara("create-phase", "1", cwd=workspace.root).status == 0
    connection = sqlite.connect(str(workspace.state_db))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = sha256_of(workspace.state_db)
    commands = ("list-phases --json", "create-phase 2", "jobs retry 1", "runner start", "runner status")
    for answer in each(commands, workspace.root).values():
        assert_one_line(answer, BAD)
        assert "schema 9999" in answer.err
        assert "update TARA" in answer.err
    assert sha256_of(workspace.state_db) == before


def test_damaged_store(workspace: Workspace) -> None:
    workspace.state_db.write_bytes(b"not a database" * 1000)
    for answer in each(("list-phases", "jobs list --json", "create-phase 1"), workspace.root).values():
        assert_one_line(answer, BAD)
        assert "damaged" in answer.err
    assert workspace.state_db.read_bytes() == b"not a database" * 1000


def test_fault_of_the_program_is_one_line_and_a_report(settled: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from core.cli.group import tara as group
    from core.store import reads

    def broken(_workspace: Workspace) -> None:
        raise RuntimeError("not\nexpected")

    monkeypatch.setattr(reads, "open_reader", broken)
    done = CliRunner().invoke(group, ["--root", str(settled.root), "list-phases", "--json"])
    report = settled.runs / "fault.log"
    assert done.exit_code == ExitCode.INTERNAL
    assert done.stdout == ""
    assert done.stderr == f"tara: a fault in TARA itself: RuntimeError: not — the details are in {report}\n"
    assert "RuntimeError: not\nexpected" in report.read_text()


def test_json_of_a_failing_check_is_still_json(workspace: Workspace) -> None:
    """`validate` answers the question it was asked: its finding is the output, its status says that it is bad."""
    from tests.core.hygiene.folders import write_adapter

    folder = write_adapter(workspace.root / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 5)
    answer = tara("validate", "adapter", "--json", cwd=workspace.root)
    assert answer.status == ExitCode.FAILED
    assert json.loads(answer.out)["findings"]
