"""What clients see of the store: frozen rows, made by `core.store.reads`, shown by commands and the console."""

from dataclasses import dataclass, field
from typing import Any

ACTIVE_JOB_STATES = ("queued", "starting", "running", "stopping", "blocked", "paused")
WAITS = "waits "  # how a queued job's message begins that is not started for lack of something
FINAL_JOB_STATES = ("succeeded", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Measurement:
    """A value with its origin. `method` is how it was obtained, or 'declared' where a person typed it."""

    name: str
    value: float | str
    method: str
    measured_at: float  # seconds since the epoch
    unit: str = ""
    n: int | None = None
    subject: str = ""


@dataclass(frozen=True)
class JobView:
    """One job and its latest digest. Times are seconds since the epoch."""

    id: int
    kind: str
    title: str
    state: str  # queued, starting, running, stopping, paused, blocked, succeeded, failed, cancelled, interrupted
    key: str
    phase: int | None
    domain: str | None
    attempt: int
    priority: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    step: int | None
    total: int | None
    unit: str
    message: str
    rate: float | None  # units a second
    eta_s: float | None
    metrics: dict[str, float] = field(default_factory=dict)  # latest value of each live figure
    error: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    depends_on: tuple[int, ...] = ()
    run_dir: str | None = None  # relative to the workspace; holds `log`, `events.jsonl`, `exit.json`
    failure: str | None = None  # what kind of end the newest attempt had: memory, killed, lost, reboot, hung, …
    not_before: float | None = None  # when a queued job is started again
    smaller: int = 0  # how many steps below its preset it is run, for lack of memory
    memory_bytes: int | None = None  # what it is estimated to take at its peak; absent: not estimated
    disk_bytes: int | None = None
    device: str | None = None  # the device it was given, by its UUID
    let_in: bool = False  # a person had it started whatever it needs
    predicted_memory_bytes: int | None = None  # when it was queued
    predicted_seconds: float | None = None
    predicted_by: str | None = None  # what the seconds come from

    @property
    def fraction(self) -> float | None:
        """How much is done, 0..1, or None where the job has not said."""
        if self.state == "succeeded":
            return 1.0
        return min(1.0, (self.step or 0) / self.total) if self.total else None

    @property
    def waits_for(self) -> str:
        """What of the machine a queued job waits for, as `waits for memory`; '' where it only waits for its turn."""
        said = self.message.partition(":")[0]
        return said if self.state == "queued" and said.startswith(WAITS) else ""

    @property
    def active(self) -> bool:
        """Whether it may still run."""
        return self.state in ACTIVE_JOB_STATES


@dataclass(frozen=True)
class PastJob:
    """A job that succeeded: what it took, beside what was predicted of it. `seconds` and `peak_bytes` are of the
    attempt that succeeded; `whole`: it began at the beginning and ran as it was set."""

    id: int
    kind: str
    title: str
    phase: int | None
    footprint: str | None
    work: float | None
    seconds: float
    peak_bytes: int | None
    whole: bool
    on_device: bool
    from_gguf: bool  # a base that was dequantized
    predicted_memory_bytes: int | None = None
    predicted_seconds: float | None = None
    predicted_by: str | None = None


@dataclass(frozen=True)
class DomainView:
    """A domain as a phase sees it; status is derived from jobs and artifacts unless `status_declared`."""

    name: str
    phase: int | None
    status: str  # pending, training, complete, failed
    status_declared: bool
    base: str  # generic name of the base model
    job: JobView | None  # the running one, else the newest
    adapter_path: str | None  # the newest good adapter, relative to the workspace
    measurements: dict[str, Measurement] = field(default_factory=dict)
    # names: base_loss, tuned_loss, base_accuracy, quality (token accuracy), adapter_bytes; absent = not measured


@dataclass(frozen=True)
class ReleaseView:
    """A version of a phase that was deployed somewhere."""

    id: int
    phase: int
    version: int
    target: str
    active: bool
    created_at: float
    bundle: str  # folder of the bundle artifact, relative to the workspace
    bytes: int


@dataclass(frozen=True)
class PhaseView:
    """A phase; its state follows from its jobs, artifacts and releases."""

    number: int
    state: str  # planning, training, merging, compressing, deployed, failed
    current: bool
    quantization: str
    compression_type: str
    target_size_mb: float | None
    quality_threshold: float | None
    speed_priority: bool
    created_at: float
    domains: tuple[DomainView, ...]
    releases: tuple[ReleaseView, ...]
    bundle_path: str | None = None  # newest verified bundle, relative to the workspace
    bundle_bytes: int | None = None
    base_bytes: int | None = None  # the f16 files the bundle was made from
    compression_ratio: Measurement | None = None  # their bytes over those of the bundle's model files, without adapters
    next_step: str = ""  # what a person does next, in a phrase
    merge: str = "none"  # how its domains reach the bundle: none, exact or unified
    merge_method: str | None = None
    merge_margin: float | None = None  # None: the settings' own
    repair: bool = False
    smoke: Measurement | None = None  # share of the canned prompts its bundle passed, when it was asked last

    @property
    def complete(self) -> int:
        """How many domains are complete."""
        return sum(domain.status == "complete" for domain in self.domains)


@dataclass(frozen=True)
class Snapshot:
    """Everything the dashboard shows, read in one transaction."""

    version: int  # changes when the store does
    phases: tuple[PhaseView, ...]
    jobs: tuple[JobView, ...]  # newest first, at most the number asked for
    runner_pid: int | None
    taken_at: float
    runner_stopped: bool = False  # a person stopped it: nobody starts it only to look

    def job(self, job_id: int) -> JobView | None:
        """The job with this number, if it is among those read."""
        return next((job for job in self.jobs if job.id == job_id), None)


@dataclass(frozen=True)
class SeriesPoint:
    """One live figure at one step of a job."""

    step: int
    name: str
    value: float
    at: float


def as_json(value: Any) -> Any:
    """A view as plain JSON data."""
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
