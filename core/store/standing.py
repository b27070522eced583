"""How phases, domains and releases stand: derived from jobs, artifacts, measurements and what a person declared.

Plain SQL, asked for what counts alone, so that it costs what there is of phases and domains and not what was ever run.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from core.lifecycle import UNDONE, JobFact, domain_state, next_step, phase_state
from core.store.views import ACTIVE_JOB_STATES, DomainView, JobView, Measurement, PhaseView, ReleaseView
from core.workspace import Workspace

_DOMAIN_MEASUREMENTS = (
    "base_loss",
    "tuned_loss",
    "base_accuracy",
    "quality",
    "tokens_per_s",
    "first_token_s",
    "bytes",
    "smoke",
)
EVENT_CLOCK_S = 0.001  # events carry times in whole milliseconds, rows in full


class Standing:
    """Derives states through a reader's two ways to ask: rows of a query, and jobs as they are viewed."""

    def __init__(
        self,
        workspace: Workspace,
        all_rows: Callable[..., list[Any]],
        jobs: Callable[[str, Sequence[Any]], Iterable[JobView]],
    ) -> None:
        self._workspace = workspace
        self._all = all_rows
        self._jobs = jobs

    def phases(self) -> Iterator[PhaseView]:
        """All phases by number, with their states derived."""
        current = self._all("SELECT value FROM fact WHERE name = 'current_phase'")
        current_number = int(current[0][0]) if current else None
        domains, releases = self.domains(), self.releases()
        facts: dict[int, list[JobFact]] = defaultdict(list)
        imported = {name for (name,) in self._all("SELECT name FROM domain WHERE adapter_path IS NOT NULL")}
        for kind, state, key, domain, phase, subject in self._all(  # only the newest of each piece of work counts
            "SELECT kind, state, key, domain, phase, subject FROM job WHERE id IN (SELECT MAX(id) FROM job "
            "WHERE phase IS NOT NULL GROUP BY phase, kind, domain, subject) ORDER BY id"
        ):
            if kind != "train" or domain not in imported:  # an adapter from elsewhere makes a failed training moot
                facts[phase].append(JobFact(kind, state, key, domain, subject))
        bundles: dict[int, tuple[str, int, str]] = {}
        told: dict[str, dict[int, Measurement]] = {"smoke": {}, "compression_ratio": {}}  # of the bundles
        for phase, path, size, meta, artifact in self._all(
            "SELECT phase.number, path, bytes, meta, artifact.id FROM phase JOIN artifact ON "
            "artifact.key = phase.bundle_key"
        ):
            if (self._workspace.absolute(path) / "manifest.json").is_file():
                bundles[phase] = (path, size, meta)
                for row in self._all(
                    "SELECT name, value, text, method, measured_at, unit, n, subject FROM measurement WHERE "
                    "artifact_id = ? AND name IN ('smoke', 'compression_ratio') AND subject = '' ORDER BY id",
                    artifact,
                ):
                    told[row[0]][phase] = measurement_of(row)  # the newest stays
        for row in self._all(
            "SELECT number, quantization, compression_type, target_size_mb, quality_threshold, speed_priority, "
            "created_at, merge, merge_method, merge_margin, repair FROM phase ORDER BY number"
        ):
            number = row[0]
            mine = tuple(domains.get(number, ()))
            bundle = bundles.get(number)
            trained = sum(domain.status == "complete" for domain in mine)
            mine_released = tuple(releases.get(number, ()))
            deployed = any(release.active for release in mine_released)
            state = phase_state(
                facts[number],
                trained=trained,
                domains=len(mine),
                bundled=bundle is not None,
                deployed=deployed,
                merged=row[7] != "none",
            )
            yield PhaseView(
                number=number,
                state=state,
                current=number == current_number,
                quantization=row[1],
                compression_type=row[2],
                target_size_mb=row[3],
                quality_threshold=row[4],
                speed_priority=bool(row[5]),
                created_at=row[6],
                merge=row[7],
                merge_method=row[8],
                merge_margin=row[9],
                repair=bool(row[10]),
                smoke=told["smoke"].get(number),
                compression_ratio=told["compression_ratio"].get(number),
                domains=mine,
                releases=mine_released,
                bundle_path=bundle[0] if bundle else None,
                bundle_bytes=bundle[1] if bundle else None,
                base_bytes=json.loads(bundle[2]).get("unquantized_bytes") if bundle else None,
                next_step=next_step(
                    state,
                    number=number,
                    bundled=bundle is not None,
                    domains=len(mine),
                    current=number == current_number,
                    newer=bundle is not None and not any(r.active and r.bundle == bundle[0] for r in mine_released),
                ),
            )

    def domains(self) -> dict[int | None, list[DomainView]]:
        """Every domain by its phase, in its order, with its state derived and what was measured of it."""
        jobs: dict[str, list[JobView]] = defaultdict(list)
        # What counts of a domain's jobs: the newest of each kind, and those that are not over.
        for job in self._jobs(
            "WHERE job.id IN (SELECT MAX(id) FROM job WHERE domain IS NOT NULL AND kind IN ('train', 'evaluate') "
            f"GROUP BY domain, kind) OR (job.state IN ({marks(ACTIVE_JOB_STATES)}) AND job.domain IS NOT NULL AND "
            "job.kind IN ('train', 'evaluate')) ORDER BY job.id",
            ACTIVE_JOB_STATES,
        ):
            jobs[job.domain or ""].append(job)
        moved: dict[str, float] = dict(  # when a job of the domain last began, or was asked for
            self._all(
                "SELECT name, COALESCE((SELECT MAX(MAX(job.created_at, COALESCE(job.started_at, 0))) FROM job WHERE "
                "job.domain = domain.name AND kind IN ('train', 'evaluate')), 0) FROM domain "
                "WHERE declared_at IS NOT NULL"
            )
        )
        adapters: dict[str, tuple[str, float]] = {}  # trained here: by domain, the newest; from elsewhere: by path
        for name, path, at, origin in self._all(
            "SELECT domain, path, created_at, json_extract(meta, '$.imported_from') FROM artifact "
            "WHERE kind = 'adapter' ORDER BY created_at DESC, id DESC"
        ):
            owner = name if origin is None else path
            if owner not in adapters and self._workspace.absolute(path).is_dir():
                adapters[owner] = (path, at)
        measured: dict[str, dict[str, Measurement]] = defaultdict(dict)
        for name, *row in self._all(
            "SELECT COALESCE(NULLIF(m.domain, ''), m.subject), m.name, m.value, m.text, m.method, m.measured_at, "
            "m.unit, m.n, m.subject FROM measurement m WHERE m.id IN (SELECT MAX(id) FROM measurement WHERE name IN "
            f"({marks(_DOMAIN_MEASUREMENTS)}) GROUP BY name, domain, subject) ORDER BY m.id",
            *_DOMAIN_MEASUREMENTS,
        ):
            measured[name][row[0]] = measurement_of(row)
        found: dict[int | None, list[DomainView]] = defaultdict(list)
        for name, phase, declared_status, declared_quality, declared_at, imported, base in self._all(
            "SELECT name, phase, declared_status, declared_quality, declared_at, adapter_path, base FROM domain "
            "ORDER BY phase, position, name"
        ):
            mine = jobs[name]
            # A job that is queued again keeps its number and birth, so what it did since counts as well.
            stands = (
                declared_at is not None
                and moved.get(name, 0.0) <= declared_at
                and not any(job.state in UNDONE for job in mine)
            )
            adapter = adapters.get(imported or name)
            measurements = dict(measured[name])
            evaluated = "quality" in measurements and (
                adapter is None or measurements["quality"].measured_at >= adapter[1] - EVENT_CLOCK_S
            )
            if declared_quality is not None and declared_at is not None:
                declared = Measurement("quality", declared_quality, "declared", declared_at)
                measurements["declared_quality"] = declared
                measurements.setdefault("quality", declared)
            status, is_declared = domain_state(
                [JobFact(job.kind, job.state, job.key, name) for job in mine if job.kind != "train" or not imported],
                has_adapter=adapter is not None,
                evaluated=evaluated,
                declared=declared_status if stands else None,
            )
            running = [job for job in mine if job.active and job.state != "blocked"]
            found[phase].append(
                DomainView(
                    name=name,
                    phase=phase,
                    status=status,
                    status_declared=is_declared,
                    base=base,
                    job=running[0] if running else (mine[-1] if mine else None),
                    adapter_path=adapter[0] if adapter else None,
                    measurements=measurements,
                )
            )
        return found

    def releases(self) -> dict[int, list[ReleaseView]]:
        """The releases of every phase, newest first."""
        active = dict(  # the newest switch of a target wins
            self._all(
                "SELECT r.target, d.release_id FROM deployment d JOIN release r ON r.id = d.release_id ORDER BY d.id"
            )
        )
        found: dict[int, list[ReleaseView]] = defaultdict(list)
        for row in self._all(
            "SELECT id, phase, version, target, created_at, bundle_path, bytes FROM release ORDER BY id DESC"
        ):
            found[row[1]].append(
                ReleaseView(row[0], row[1], row[2], row[3], active.get(row[3]) == row[0], row[4], row[5], row[6])
            )
        return found


def marks(values: Sequence[Any]) -> str:
    """As many question marks as there are values."""
    return ", ".join("?" * len(values))


def measurement_of(row: Sequence[Any]) -> Measurement:
    """A measurement from name, value, text, method, date, unit, count and subject."""
    name, value, text, method, at, unit, n, subject = row
    return Measurement(name, value if value is not None else text, method, at, unit, n, subject)
