"""Fast reads for clients: plain SQL on state.db, frozen views out.

Importing SQLModel takes longer than a whole command may, so clients read without it; a test holds every query against
the tables. States of phases and domains are derived here, never stored.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite

from core.errors import EnvironmentLacks, InvalidInput
from core.store.place import check_place
from core.store.standing import Standing, marks, measurement_of
from core.store.version import MEND, SCHEMA, read_only_uri, schema_in
from core.store.views import (
    DomainView,
    JobView,
    Measurement,
    PastJob,
    PhaseView,
    ReleaseView,
    SeriesPoint,
    Snapshot,
)
from core.workspace import Workspace

_ARTIFACT = (
    "id", "key", "kind", "name", "path", "sha256", "bytes", "meta", "job_id", "phase", "domain", "created_at",
)  # fmt: skip
_TURN = (
    "id", "session", "phase", "bundle", "domain", "message", "answer", "decision", "tokens", "tokens_per_s", "at",
    "user", "emotions", "crisis",
)  # fmt: skip


class Reader:
    """One connection that only reads. It belongs to the thread that opened it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._connection: sqlite.Connection | None = None
        self._seen: tuple[int, float] | None = None
        self._standing = Standing(workspace, self._all, self._jobs)
        self._inode: int | None = None
        self._connect()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def changed(self) -> bool:
        """Whether another process has written since the last call; the first call says yes."""
        if self._connection is not None and _inode(self.workspace.state_db) != self._inode:
            self.close()  # the file was made anew: what this connection reads is the old one
            self._seen = None
        version = self._version()
        changed = version != self._seen
        self._seen = version
        return changed

    def snapshot(self, jobs: int = 200) -> Snapshot:
        """Everything the dashboard shows, from one transaction: all phases, the newest `jobs` jobs."""
        if self._connect() is None:
            return Snapshot(0, (), (), self._runner_pid(), time.time())
        with _transaction(self._connected()):
            version = self._version()
            return Snapshot(
                version=hash(version),
                phases=tuple(self._phases()),
                jobs=tuple(self._jobs("ORDER BY job.id DESC LIMIT ?", (jobs,))),
                runner_pid=self._runner_pid(),
                taken_at=time.time(),
                runner_stopped=self._runner_stopped(),
            )

    def phases(self) -> list[PhaseView]:
        """All phases by number."""
        if self._connect() is None:
            return []
        with _transaction(self._connected()):
            return list(self._phases())

    def phase(self, number: int) -> PhaseView:
        """One phase. Raises InvalidInput where there is none, naming those there are."""
        found = self.phases()
        for phase in found:
            if phase.number == number:
                return phase
        known = ", ".join(str(phase.number) for phase in found) or "none yet"
        raise InvalidInput(f"there is no phase {number} (phases: {known})", f"tara create-phase {number} --domains …")

    def jobs(
        self, *, phase: int | None = None, states: Sequence[str] = (), ids: Sequence[int] = (), limit: int = 1000
    ) -> list[JobView]:
        """Jobs, newest first, narrowed by phase, state or number."""
        if self._connect() is None:
            return []
        where, values = _where(phase=[] if phase is None else [phase], state=states, id=ids)
        return list(self._jobs(f"WHERE {where} ORDER BY job.id DESC LIMIT ?", (*values, limit)))

    def job(self, job_id: int) -> JobView:
        """One job. Raises InvalidInput where there is none."""
        found = self.jobs(ids=[job_id])
        if not found:
            raise InvalidInput(f"there is no job {job_id}", "tara jobs list shows them")
        return found[0]

    def past_jobs(
        self,
        *,
        id: int | None = None,
        kind: str | None = None,
        footprint: str | None = None,
        phase: int | None = None,
        limit: int = 1000,
    ) -> list[PastJob]:
        """Jobs that succeeded with what they took, newest first, narrowed by number, kind, footprint or phase."""
        if self._connect() is None:
            return []
        narrow = {"id": id, "kind": kind, "footprint": footprint, "phase": phase}
        where, values = _where(**{name: [value] for name, value in narrow.items() if value is not None})
        rows = self._all(
            "SELECT id, kind, title, phase, footprint, work, a.ended_at - a.started_at, peak_rss_bytes, "
            "smaller = 0 AND COALESCE(json_extract(result, '$.resumed_from'), 0) = 0, device IS NOT NULL, "
            "json_extract(params, '$.base.gguf_file') IS NOT NULL, predicted_memory_bytes, predicted_seconds, "
            "predicted_by FROM job JOIN job_attempt a ON a.job_id = job.id AND a.number = job.attempt "
            "WHERE state = 'succeeded' AND a.outcome = 'succeeded' AND a.ended_at IS NOT NULL "
            f"AND {where} ORDER BY id DESC LIMIT ?",
            *values,
            limit,
        )
        flags = slice(8, 11)
        return [PastJob(*row[:8], *map(bool, row[flags]), *row[11:]) for row in rows]

    def peak_of(self, footprint: str) -> int | None:
        """The most memory that a job of a footprint, run as it was set, was measured to hold; None where none was."""
        if self._connect() is None:
            return None
        rows = self._all(
            "SELECT MAX(peak_rss_bytes) FROM job_attempt JOIN job ON job.id = job_id "
            "WHERE footprint = ? AND smaller = 0 AND outcome = 'succeeded'",
            footprint,
        )
        return rows[0][0]  # type: ignore[no-any-return]

    def series(self, job_id: int, names: Sequence[str] = ()) -> list[SeriesPoint]:
        """A job's live figures by step, all or those named."""
        if self._connect() is None:
            return []
        narrow = f" AND name IN ({marks(names)})" if names else ""
        rows = self._all(
            f"SELECT step, name, value, at FROM metric WHERE job_id = ?{narrow} ORDER BY id", job_id, *names
        )
        return [SeriesPoint(*row) for row in rows]

    def artifacts(self, *, kind: str | None = None, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Artifacts as plain rows (`meta` parsed), newest first."""
        if self._connect() is None:
            return []
        where, values = _where(kind=[kind] if kind else [], key=keys)
        rows = self._all(f"SELECT {', '.join(_ARTIFACT)} FROM artifact WHERE {where} ORDER BY id DESC", *values)
        return [{**dict(zip(_ARTIFACT, row, strict=True)), "meta": json.loads(row[7])} for row in rows]

    def parents(self, artifact_id: int) -> list[dict[str, Any]]:
        """The artifacts one was made from, as `artifacts` gives them."""
        if self._connect() is None:
            return []
        keys = self._all(
            "SELECT key FROM artifact JOIN artifact_parent ON parent_id = id WHERE artifact_id = ?", artifact_id
        )
        return self.artifacts(keys=[key for (key,) in keys]) if keys else []

    def recorded(self) -> dict[str, str]:
        """The path of every artifact by its key."""
        if self._connect() is None:
            return {}
        return dict(self._all("SELECT key, path FROM artifact"))

    def measurements(self, artifact_id: int) -> list[Measurement]:
        """What was measured of an artifact, oldest first."""
        if self._connect() is None:
            return []
        rows = self._all(
            "SELECT name, value, text, method, measured_at, unit, n, subject FROM measurement WHERE artifact_id = ? "
            "ORDER BY id",
            artifact_id,
        )
        return [measurement_of(row) for row in rows]

    def fact(self, name: str) -> str | None:
        """A single value of the workspace."""
        if self._connect() is None:
            return None
        rows = self._all("SELECT value FROM fact WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def notes(self, subject: str) -> list[tuple[float, str, dict[str, Any]]]:
        """What a person declared, forced or removed of a subject: when, what, and its details, newest first."""
        if self._connect() is None:
            return []
        rows = self._all("SELECT at, action, detail FROM note WHERE subject = ? ORDER BY id DESC", subject)
        return [(at, action, dict(json.loads(detail))) for at, action, detail in rows]

    def domains(self) -> list[DomainView]:
        """Every domain that was put into a phase or trained."""
        if self._connect() is None:
            return []
        with _transaction(self._connected()):
            return [view for views in self._standing.domains().values() for view in views]

    def releases(self, phase: int) -> list[ReleaseView]:
        """A phase's releases, newest first."""
        if self._connect() is None:
            return []
        return self._standing.releases().get(phase, [])

    def chat_turns(self, session: str) -> list[dict[str, Any]]:
        """The turns of a chat session as plain rows, oldest first."""
        if self._connect() is None:
            return []
        rows = self._all(f"SELECT {', '.join(_TURN)} FROM chat_turn WHERE session = ? ORDER BY id", session)
        return [_turn(row) for row in rows]

    def history(self, user: str, limit: int = 500) -> list[dict[str, Any]]:
        """A person's newest chat turns of all sessions, as `chat_turns` gives them, oldest first."""
        if self._connect() is None:
            return []
        rows = self._all(
            f"SELECT {', '.join(_TURN)} FROM chat_turn WHERE user = ? ORDER BY id DESC LIMIT ?", user, limit
        )
        return [_turn(row) for row in reversed(rows)]

    def moments(self, user: str, limit: int = 500) -> list[tuple[float, str | None, dict[str, float]]]:
        """When each of a person's newest turns was, whose subject it was (who answered, or for whom the general model
        did), and the emotions in it; none of a crisis. Without their texts: oldest first."""
        if self._connect() is None:
            return []
        rows = self._all(
            "SELECT at, COALESCE(domain, json_extract(decision, '$.stood_in_for')), emotions FROM chat_turn "
            "WHERE user = ? AND NOT crisis ORDER BY id DESC LIMIT ?",
            user,
            limit,
        )
        return [(at, domain, dict(json.loads(emotions))) for at, domain, emotions in reversed(rows)]

    def users(self) -> dict[str, int]:
        """How many chat turns each person has."""
        if self._connect() is None:
            return {}
        return dict(
            self._all("SELECT user, COUNT(*) FROM chat_turn WHERE user IS NOT NULL GROUP BY user ORDER BY user")
        )

    def result(self, job_id: int) -> dict[str, Any]:
        """What a job reported as its result."""
        if self._connect() is None:
            return {}
        rows = self._all("SELECT result FROM job WHERE id = ?", job_id)
        return dict(json.loads(rows[0][0])) if rows else {}

    def _phases(self) -> Iterable[PhaseView]:
        return self._standing.phases()

    def _jobs(self, tail: str, values: Sequence[Any]) -> Iterable[JobView]:
        rows = self._all(
            "SELECT id, kind, title, state, key, phase, domain, attempt, priority, created_at, started_at, ended_at, "
            "step, total, unit, message, rate, eta_s, metrics, error, hint, exit_code, exit_signal, run_dir, failure, "
            "not_before, smaller, memory_bytes, disk_bytes, device, let_in, predicted_memory_bytes, predicted_seconds, "
            "predicted_by, "
            "(SELECT group_concat(needs_id) FROM job_dependency WHERE job_id = job.id) FROM job " + tail,
            *values,
        )
        for row in rows:
            needs = tuple(sorted(int(part) for part in row[34].split(","))) if row[34] else ()
            values = (*row[:18], json.loads(row[18]), *row[19:23], needs, *row[23:30], bool(row[30]), *row[31:34])
            yield JobView(*values)

    def _connect(self) -> sqlite.Connection | None:
        """The connection, or None while there is no store yet."""
        if self._connection is None and self.workspace.state_db.exists():
            path = self.workspace.state_db
            found = self._open(path)
            if found is not None and found != SCHEMA:
                from core.store.engine import open_store

                self.close()
                open_store(self.workspace).close()
                self._open(path)
        return self._connection

    def _open(self, path: Path) -> str | None:
        """Open the file and keep the connection; its schema, or None where there is nothing in it yet."""
        connection: sqlite.Connection | None = None
        found: str | None = None
        try:
            check_place(path)
            self._inode = _inode(path)
            connection = sqlite.connect(read_only_uri(path), uri=True, isolation_level=None)
            connection.execute("PRAGMA busy_timeout = 5000")
            found = schema_in(connection, path)
        except sqlite.OperationalError as error:
            raise EnvironmentLacks(
                f"{path} cannot be read: {error}", "check its permissions, then try again"
            ) from error
        except sqlite.DatabaseError as error:
            raise InvalidInput(f"{path} is damaged: {error}", MEND) from error
        finally:
            if found is None and connection is not None:
                connection.close()
        self._connection = connection if found is not None else None
        return found

    def _connected(self) -> sqlite.Connection:
        assert self._connection is not None
        return self._connection

    def _all(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._connected().execute(query, values).fetchall()
        except sqlite.OperationalError as error:
            raise EnvironmentLacks(f"{self.workspace.state_db} cannot be read: {error}", "try again") from error
        except sqlite.DatabaseError as error:
            raise InvalidInput(f"{self.workspace.state_db} is damaged and cannot be read: {error}", MEND) from error
        except OverflowError as error:
            raise InvalidInput(f"a number is too large for the store ({error})") from error

    def _version(self) -> tuple[int, float]:
        if self._connect() is None:
            return (0, 0.0)
        # total_changes is this connection's own; data_version moves with every commit of another.
        return (int(self._all("PRAGMA data_version")[0][0]), float(self._runner_pid() or 0))

    def unwatched(self) -> bool:
        """Whether there are jobs to run or running while nobody looks after them, so that what is shown may be old."""
        if self._connect() is None or self._runner_pid() is not None:
            return False
        return bool(self._all("SELECT 1 FROM job WHERE state IN ('queued', 'starting', 'running', 'stopping') LIMIT 1"))

    def _runner_stopped(self) -> bool:
        from core.runner.presence import stopped_mark

        return stopped_mark(self.workspace).exists()

    def _runner_pid(self) -> int | None:
        from core.runner.presence import runner_pid

        return runner_pid(self.workspace)


def open_reader(workspace: Workspace) -> Reader:
    """A reader of the workspace's store; one where nothing was recorded yet reads as empty."""
    return Reader(workspace)


def _turn(row: Sequence[Any]) -> dict[str, Any]:
    found = dict(zip(_TURN, row, strict=True))
    return {**found, "emotions": json.loads(found["emotions"]), "crisis": bool(found["crisis"])}


@contextmanager
def _transaction(connection: sqlite.Connection) -> Iterator[None]:
    """A deferred transaction, so that several queries see one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _where(**wanted: Sequence[Any]) -> tuple[str, list[Any]]:
    """A condition that narrows each column to some values, where there are any, and those values."""
    given = {column: values for column, values in wanted.items() if values}
    clauses = [f"{column} IN ({marks(values)})" for column, values in given.items()]
    return " AND ".join(clauses) or "1", [value for values in given.values() for value in values]
