"""Looking at the machine for admission: what is free, what running jobs hold, what was measured of their like."""

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import func
from sqlmodel import Session, col, select

from core import devices
from core.catalog import Settings
from core.memory import PAGE, available_memory
from core.runner.admission import (
    HEAVY,
    LIGHT,
    Decision,
    Device,
    Need,
    Room,
    Running,
    Slots,
    Waiting,
    admit,
    free_slots,
)
from core.runner.executors.local import processes_of
from core.runner.shim import session_of
from core.store.engine import Store
from core.store.tables import Job, JobAttempt
from core.store.views import WAITS
from core.training.smaller import steps_down

MEASURED_SLACK = 1.1  # what was measured of one job may be a little more for the next of its footprint
PATIENCE_S = 300.0
RETELL_S = 5.0  # figures in a waiting job's message are not told anew more often
DEVICES_STALE_S = 3.0
WAITS_FOR_DISK = "waits for disk space"

log = logging.getLogger("tara.runner")


class Intake:
    """Decides which queued jobs start; remembers since when each waits, and what it was told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since: dict[int, float] = {}
        self._told: dict[int, tuple[str, float]] = {}
        self._nvidia_smi = devices.program()
        self._devices: tuple[Device, ...] = ()
        self._devices_at = float("-inf")
        self._short_of_disk = False
        self._peaks: dict[tuple[str, int], int | None] = {}  # by footprint, and steps below the preset

    def choose(self, queued: Sequence[Job], active: Sequence[Job], settings: Settings) -> Decision:
        """Which of `queued` start now, and why the others wait. Not to be called inside a transaction: asking for
        devices takes a while."""
        now = time.monotonic()
        ready = [job for job in queued if (job.not_before or 0) <= time.time()]
        numbers = {job.id for job in ready}
        self._since = {number: at for number, at in self._since.items() if number in numbers}
        self._told = {number: told for number, told in self._told.items() if number in numbers}
        free_disk = shutil.disk_usage(self._store.workspace.root).free - settings.disk_reserve_mb * 10**6
        if short := self._reserve_touched(free_disk, settings):
            return Decision(waits={job.id or 0: short for job in ready})
        memory, limited_by = available_memory()
        room = Room(
            memory=memory - settings.memory_reserve_mb * 10**6,
            disk=free_disk,
            memory_of=limited_by,
            devices=self._find_devices(ready, active, now),
        )
        slots = Slots(settings.heavy_slots, settings.light_slots)
        free = free_slots(active, slots)
        if not any(free[HEAVY if job.heavy else LIGHT] > 0 or (job.on_device and room.devices) for job in ready):
            return Decision()  # as on most looks: all slots are taken, and nothing needs to be measured
        needs = self._needs([*ready, *active])
        decision = admit(
            [self._waiting(job, needs[job.id], now) for job in ready],
            [self._running(job, needs[job.id]) for job in active],
            room,
            slots,
            patience_s=PATIENCE_S,
        )
        for number in decision.waits:
            self._since.setdefault(number, now)
        return decision

    def _needs(self, jobs: Sequence[Job]) -> dict[int | None, Need]:
        """What jobs will take, by their numbers: as estimated, or as others of their footprint were measured to."""
        wanted = {(job.footprint, job.smaller) for job in jobs if job.footprint is not None} - set(self._peaks)
        if wanted:
            with self._store.write() as session:
                self._peaks |= {one: _peak(session, *one) for one in wanted}
        return {job.id: _need(job, self._peaks.get((job.footprint or "", job.smaller))) for job in jobs}

    def job_ended(self) -> None:
        """There may be something new that was measured."""
        self._peaks.clear()

    def news(self, queued: Sequence[Job], waits: Mapping[int, str]) -> dict[int, str]:
        """What is to be said of waiting jobs that was not said yet: their number and why they wait, or an empty text
        where they no longer do."""
        now = time.monotonic()
        found = {}
        for job in queued:
            assert job.id is not None
            said = waits.get(job.id, "")
            if said == job.message or (not said and not job.message.startswith(WAITS)):
                continue
            before, at = self._told.get(job.id, ("", float("-inf")))
            if said and before.partition(":")[0] == said.partition(":")[0] and now - at < RETELL_S:
                continue
            self._told[job.id] = (said, now)
            found[job.id] = said
        return found

    def _reserve_touched(self, free: int, settings: Settings) -> str:
        """Why nothing at all is started: the disk's reserve is touched. Empty where it is not."""
        short = free < 0
        if short != self._short_of_disk:
            self._short_of_disk = short
            left = free + settings.disk_reserve_mb * 10**6
            log.info("the queue %s; %.0f MB are free", WAITS_FOR_DISK if short else "goes on", left / 1e6)
        return f"{WAITS_FOR_DISK}: {settings.disk_reserve_mb} MB stay free" if short else ""

    def _waiting(self, job: Job, need: Need, now: float) -> Waiting:
        assert job.id is not None
        return Waiting(
            job.id,
            job.heavy,
            need,
            waited_s=now - self._since.get(job.id, now),
            makes=job.out,
            shrinks=steps_down_of(job) > 0,
            let_in=job.let_in,
        )

    def _running(self, job: Job, need: Need) -> Running:
        assert job.id is not None
        held = held_by(self._store.workspace.absolute(job.run_dir)) if job.run_dir else 0
        return Running(job.id, job.heavy, need, held, job.device, makes=job.out)

    def _find_devices(self, ready: Sequence[Job], active: Sequence[Job], now: float) -> tuple[Device, ...]:
        """The machine's devices; asked only where a job wants one, since asking starts a process."""
        if self._nvidia_smi is None or not any(job.on_device for job in (*ready, *active)):
            return ()
        if now - self._devices_at > DEVICES_STALE_S:
            try:
                found = devices.gpus(self._nvidia_smi)
            except (OSError, subprocess.TimeoutExpired) as error:
                log.error("nvidia-smi cannot be asked (%s): jobs run without devices of their own", error)
                self._nvidia_smi = None
                return ()
            self._devices = tuple(Device(one.uuid, one.total, one.free) for one in found)
            self._devices_at = now
        return self._devices


def held_by(run_dir: Path) -> int:
    """Bytes that the processes of a run folder hold now. Pages that several of them share are counted for each."""
    who = processes_of(run_dir)
    return sum(int(fields[21]) * PAGE for _, fields in session_of(int(who["pid"]))) if who is not None else 0


def _need(job: Job, peak: int | None) -> Need:
    need = Need(
        job.memory_bytes or 0, job.disk_bytes or 0, job.device_bytes or 0, job.beside_device_bytes or 0, job.on_device
    )
    if peak is None:
        return need
    memory = int(peak * MEASURED_SLACK)
    return replace(need, memory=memory, beside_device=memory, measured=True)


def _peak(session: Session, footprint: str, smaller: int) -> int | None:
    """The most memory that a job of a footprint, run as much smaller, was measured to hold; None where none was."""
    return session.exec(
        select(func.max(JobAttempt.peak_rss_bytes))
        .join(Job, col(Job.id) == JobAttempt.job_id)
        .where(Job.footprint == footprint, Job.smaller == smaller, JobAttempt.outcome == "succeeded")
    ).one()


def steps_down_of(job: Job) -> int:
    """How many smaller ways to run a job are left."""
    preset = json.loads(job.params).get("preset")
    return len(steps_down(preset)) - job.smaller if isinstance(preset, dict) else 0


def threads_of(heavy: bool, settings: Settings) -> int:
    """The threads a job computes with: the cores shared among as many heavy jobs as may run; one for a light one."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // settings.heavy_slots) if heavy else 1
