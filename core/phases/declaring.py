"""What a person declares: a domain's status or quality, and that the next phase is the current one. It is noted."""

import json
import time

from sqlmodel import col, select

from core.catalog import load_catalog
from core.errors import InvalidInput, Refused
from core.lifecycle import DOMAIN_MOVES, DOMAIN_STATES
from core.phases.checks import check_fraction
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Domain, Fact, Note
from core.workspace import Workspace


def update_domain(
    workspace: Workspace,
    name: str,
    *,
    status: str | None = None,
    quality: float | None = None,
    train_here: bool = False,
) -> None:
    """Declare a domain's status or quality. What is declared is shown as declared, beside what was measured."""
    if status is None and quality is None and not train_here:
        raise InvalidInput("nothing to update", "give --status, --quality or --train-here")
    if quality is not None:
        check_fraction("quality", quality)
    if status is not None and status not in DOMAIN_STATES:
        raise InvalidInput(f"unknown status {status}", f"one of {', '.join(DOMAIN_STATES)}")
    catalog = load_catalog(workspace)
    catalog.domain(name)
    with open_reader(workspace) as reader:
        view = next((view for view in reader.domains() if view.name == name), None)
    if view is None:
        raise Refused(f"{name} is in no phase and was never trained", f"tara add-domain N {name}")
    if view.job is not None and view.job.active and view.job.state != "blocked":
        raise Refused(f"{name} has a running or queued job ({view.job.id})", "wait for it, or cancel it")
    if status is not None and status != view.status and status not in DOMAIN_MOVES[view.status]:
        raise Refused(f"{name} cannot go from {view.status} to {status}")
    if status == "complete" and view.adapter_path is None:
        raise Refused(f"{name} has no adapter, so it cannot be complete", f"tara train-domain {name}")
    if status == "training":
        raise Refused(f"{name} is in training only while a job trains it", f"tara train-domain {name}")
    with open_store(workspace).write() as session:
        row = session.get(Domain, name)
        assert row is not None
        if status is not None:
            row.declared_status = status
        elif train_here or not view.status_declared:
            row.declared_status = None  # of an adapter that goes, or outdated by a job: the new date is not for it
        if quality is not None:
            row.declared_quality = quality
        if status is not None or quality is not None:
            row.declared_at = time.time()
        if train_here:
            row.adapter_path = None
        detail = {"status": status, "quality": quality, "train_here": train_here, "was": view.status}
        session.add(Note(subject=name, action="update-domain", detail=dump(detail)))


def advance_phase(workspace: Workspace, *, force: bool = False) -> tuple[int, int]:
    """Make the next phase the current one, once the current one is deployed. Returns the old and the new number.

    Raises Refused where there is no next one.
    """
    with open_reader(workspace) as reader:
        phases = reader.phases()
    current = next((phase for phase in phases if phase.current), None)
    if current is None:
        raise Refused("there is no phase yet", "tara create-phase 1 --domains …")
    if current.state != "deployed" and not force:
        raise Refused(
            f"phase {current.number} is {current.state}, not deployed", f"{current.next_step}, or --force (recorded)"
        )
    following = next((phase for phase in phases if phase.number > current.number), None)
    if following is None:
        raise Refused(
            f"there is no phase after {current.number}", f"tara create-phase {current.number + 1} --domains …"
        )
    with open_store(workspace).write() as session:
        fact = session.get(Fact, "current_phase")
        assert fact is not None
        fact.value = str(following.number)
        detail = {"from": current.number, "to": following.number, "state": current.state, "forced": force}
        session.add(Note(subject=f"phase {current.number}", action="advance-phase", detail=dump(detail)))
    return current.number, following.number


# -- what the functions share ------------------------------------------------------------------------------------


def notes(workspace: Workspace) -> list[dict[str, object]]:
    """What was declared, forced or removed, newest first."""
    with open_store(workspace).write() as session:
        rows = session.exec(select(Note).order_by(col(Note.id).desc())).all()
        return [{"at": row.at, "subject": row.subject, "action": row.action, **json.loads(row.detail)} for row in rows]
