"""What a store says, apart from its row numbers, and ways of damaging its file."""

import random
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite

from core.store.reads import open_reader
from core.workspace import Workspace

PAGE = 4096
JOB = (
    "id, kind, title, state, key, phase, domain, subject, memory_bytes, footprint, work, predicted_memory_bytes, "
    "predicted_seconds, predicted_by, priority, heavy, attempt, params, "
    "inputs, out, created_at, ended_at, step, total, unit, message, metrics, result, error, hint, exit_code, "
    "exit_signal, run_dir, failure, smaller, stop_reason"
)
QUESTIONS = {
    "jobs": f"SELECT {JOB} FROM job ORDER BY id",
    "attempts": "SELECT job_id, number, run_dir, outcome, exit_code, exit_signal, failure, reached FROM job_attempt "
    "ORDER BY 1, 2",
    "needs": "SELECT job_id, needs_id FROM job_dependency ORDER BY 1, 2",
    "figures": "SELECT job_id, attempt, step, name, value, at FROM metric ORDER BY 1, 2, 3, 4",
    "artifacts": "SELECT key, kind, name, path, sha256, bytes, meta, job_id, phase, domain FROM artifact ORDER BY key",
    "parents": "SELECT a.key, b.key FROM artifact_parent p JOIN artifact a ON a.id = p.artifact_id "
    "JOIN artifact b ON b.id = p.parent_id ORDER BY 1, 2",
    "measurements": "SELECT a.key, m.job_id, m.domain, m.subject, m.name, m.value, m.text, m.unit, m.method, m.n, "
    "m.measured_at FROM measurement m JOIN artifact a ON a.id = m.artifact_id ORDER BY m.measured_at, m.name, a.key",
    "releases": "SELECT phase, version, target, bundle_key, bundle_path, manifest_sha256, bytes, job_id FROM release "
    "ORDER BY target, version",
    "switches": "SELECT r.target, r.version, d.action FROM deployment d JOIN release r ON r.id = d.release_id "
    "ORDER BY d.id",
    "phases": "SELECT * FROM phase ORDER BY number",
    "domains": "SELECT * FROM domain ORDER BY name",
    "facts": "SELECT * FROM fact ORDER BY name",
    "turns": "SELECT session, message, answer, at FROM chat_turn ORDER BY id",
    "notes": "SELECT at, subject, action, detail FROM note ORDER BY id",
}


def rows(workspace: Workspace) -> dict[str, list[Any]]:
    """Everything a store says, by question."""
    connection = sqlite.connect(str(workspace.state_db))
    try:
        return {name: connection.execute(query).fetchall() for name, query in QUESTIONS.items()}
    finally:
        connection.close()


def shown(workspace: Workspace) -> list[Any]:
    """What a person is shown of phases and domains."""
    with open_reader(workspace) as reader:
        return [
            (
                phase.number, phase.state, phase.current, phase.next_step, phase.bundle_path, phase.base_bytes,
                [(release.version, release.active) for release in phase.releases],
                [
                    (one.name, one.status, one.base, one.adapter_path,
                     {name: found for name, found in one.measurements.items() if found.method != "declared"})
                    for one in phase.domains
                ],
            )
            for phase in reader.phases()
        ]  # fmt: skip


def settle(workspace: Workspace) -> None:
    """All of the journal in the file, and nothing beside it."""
    connection = sqlite.connect(str(workspace.state_db))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def delete(path: Path) -> None:
    """The file is gone."""
    path.unlink()


def overwrite_the_middle(path: Path, *, seed: int = 3) -> None:
    """A run of pages in the middle holds noise."""
    noise = random.Random(seed)
    pages = path.stat().st_size // PAGE
    with open(path, "r+b") as stream:
        stream.seek(PAGE * (pages // 2 - 2))
        stream.write(noise.randbytes(4 * PAGE))


def cut_to_half(path: Path) -> None:
    """Only the first half is there."""
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def spoil_the_header(path: Path, size: int = 100) -> None:
    """The first bytes hold noise."""
    with open(path, "r+b") as stream:
        stream.write(random.Random(5).randbytes(size))


def spoil_the_first_page(path: Path) -> None:
    """The whole first page, with the list of tables, holds noise."""
    spoil_the_header(path, PAGE)
