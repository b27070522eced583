"""Smoke tests of a phase: its bundle is asked, and the report is kept with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.catalog import load_catalog
from core.catalog.smoke import load_smoke
from core.chat.opening import open_conversation
from core.chat.preference import BALANCED
from core.chat.smoke import Result, as_json, run, summary
from core.chat.subject import Subject
from core.errors import InvalidInput
from core.phases.smoked import NAME, REPORT, bundle_of
from core.store.reads import open_reader
from core.workspace import Workspace


@dataclass(frozen=True)
class SmokeReport:
    """What was asked of a bundle and how it answered. `at` is seconds since the epoch."""

    phase: int
    domain: str | None  # where only one was asked
    bundle: str  # folder, relative to the workspace
    results: tuple[Result, ...]
    sets_sha256: str
    at: float

    @property
    def passed(self) -> bool:
        """Whether every prompt passed."""
        return all(one.passed for one in self.results)

    def line(self) -> str:
        """It in a line."""
        return summary(self.results) + (f" ({self.domain} only)" if self.domain is not None else "")

    def as_json(self) -> dict[str, Any]:
        """It for scripts and for the store."""
        return {
            "phase": self.phase,
            "domain": self.domain,
            "bundle": self.bundle,
            "passed": self.passed,
            "line": self.line(),
            "sets_sha256": self.sets_sha256,
            "at": self.at,
            "results": as_json(self.results),
        }


def smoke_phase(
    workspace: Workspace,
    number: int,
    domain: str | None = None,
    told: Callable[[Result, int, int], None] = lambda _result, _done, _all: None,
) -> SmokeReport:
    """Ask a phase's newest bundle (of the active release where that is all there is) the canned sets of its domains, or
    of one, and keep the report with it. Raises InvalidInput for an unknown domain, Refused without a bundle."""
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
        bundle = bundle_of(reader, phase)
    subject = Subject.of_folder(workspace.absolute(bundle["path"]))
    asked = subject.holdings.domains
    if domain is not None:
        if domain not in asked:
            raise InvalidInput(f"{bundle['path']} has no domain {domain!r}", f"it has: {', '.join(asked)}")
        asked = (domain,)
    catalog = load_catalog(workspace)
    sets = load_smoke(workspace, catalog.domains)
    with open_conversation(subject, catalog.settings, BALANCED) as conversation:
        results = run(conversation, {name: sets.of(catalog.domain(name)) for name in asked}, told)
    report = SmokeReport(number, domain, bundle["path"], tuple(results), sets.sha256, time.time())
    _keep(workspace, bundle["id"], report)
    return report


def _keep(workspace: Workspace, artifact: int, report: SmokeReport) -> None:
    from core.store.engine import dump, open_store
    from core.store.tables import Measurement

    method = f"canned prompts {report.sets_sha256[:8]}, greedy"
    groups: dict[str, list[Result]] = {"": list(report.results)} if report.domain is None else {}
    for one in report.results:
        groups.setdefault(one.asked, []).append(one)
    with open_store(workspace).write() as db:
        for name, results in groups.items():
            share = sum(one.passed for one in results) / len(results)
            db.add(
                Measurement(
                    artifact_id=artifact,
                    domain=name or None,
                    subject=name,
                    name=NAME,
                    value=share,
                    method=method,
                    n=len(results),
                    measured_at=report.at,
                )
            )
        db.add(
            Measurement(
                artifact_id=artifact,
                name=REPORT,
                text=dump(report.as_json()),
                method=method,
                n=len(report.results),
                measured_at=report.at,
            )
        )
