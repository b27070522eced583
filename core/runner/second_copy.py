"""What a run folder holds beside the job's own files, so that the store's rows can be made anew from it."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from core.files import write_atomically
from core.store.engine import Store
from core.store.tables import Domain, Fact, Job, JobDependency, Phase

STOP = "stop.json"  # written before a job is asked to end: why
EXPECTED = (  # columns: what the job takes, and what was predicted of it
    "memory_bytes", "disk_bytes", "device_bytes", "beside_device_bytes", "on_device", "footprint", "work",
    "predicted_memory_bytes", "predicted_seconds", "predicted_by",
)  # fmt: skip
log = logging.getLogger("tara.runner")


def known_to_the_store(store: Store, job: Job) -> dict[str, Any]:
    """What only the store knows of a job that is started now, as JSON data: the order of the queue, what the job needs,
    its phase, its domain (all of the phase's where it is of none), and which phase is the current one."""
    with store.write() as session:
        phase = session.get(Phase, job.phase) if job.phase is not None else None
        of = Domain.name == job.domain if job.domain is not None else Domain.phase == job.phase
        domains = session.exec(select(Domain).where(of)).all() if job.domain or phase else []
        current = session.get(Fact, "current_phase")
        needs = session.exec(
            select(JobDependency.needs_id).where(JobDependency.job_id == job.id).order_by(col(JobDependency.needs_id))
        ).all()
        return {
            "priority": job.priority,
            "heavy": job.heavy,
            "created_at": job.created_at,
            **{name: getattr(job, name) for name in EXPECTED},
            "needs": list(needs),
            "phase": phase.model_dump() if phase is not None else None,
            "domains": [domain.model_dump() for domain in domains],
            "current_phase": current.value if current is not None else None,
        }


def note_stop(run_dir: Path, reason: str | None) -> None:
    """Leave in a run folder that its job was asked to end, and whether to be cancelled or paused."""
    if (run_dir / STOP).exists():
        return
    try:
        write_atomically(run_dir / STOP, json.dumps({"why": reason or "cancel", "at": time.time()}))
    except OSError as error:  # a full disk must not keep a job from being stopped
        log.warning("%s: why the job was stopped is in the store alone (%s)", run_dir.name, error)


def stop_of(run_dir: Path) -> str | None:
    """Why a job was asked to end (cancel or pause), or None."""
    try:
        return str(json.loads((run_dir / STOP).read_text("utf-8"))["why"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
