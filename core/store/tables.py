"""The tables of state.db.

Times are seconds since the epoch. JSON columns hold plain text so that a reader without an ORM sees the same thing.
A job's, phase's or domain's state is stored only where it cannot be derived: phases and domains have none, except what
a person declared.
"""

import time

from sqlalchemy import Index, MetaData, UniqueConstraint
from sqlmodel import Field, SQLModel

# Named constraints, because SQLite can only alter a table by copying it, and unnamed ones are lost on the way.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata: MetaData = SQLModel.metadata
# Numbers of rows that a clean-up takes out are not given to others: the rows can come back, and their run folders.
NEVER_AGAIN = {"sqlite_autoincrement": True}


class Fact(SQLModel, table=True):
    """A single value of the workspace, such as the current phase."""

    name: str = Field(primary_key=True)
    value: str


class Phase(SQLModel, table=True):
    """A phase and the settings it was created with."""

    number: int = Field(primary_key=True)
    quantization: str
    compression_type: str
    target_size_mb: float | None = None
    quality_threshold: float | None = None
    speed_priority: bool = False
    bundle_key: str | None = None  # what the last build was asked for; the bundle of this key is the phase's
    created_at: float = Field(default_factory=time.time)
    # How its domains reach the bundle: none (adapters), exact (a model a domain) or unified (one model a base).
    merge: str = Field(default="none", sa_column_kwargs={"server_default": "none"})
    merge_method: str | None = None  # of unified
    merge_margin: float | None = None  # of unified; absent: the settings' own
    repair: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})  # of rounding, within the adapters


class Domain(SQLModel, table=True):
    """A domain in its phase, and what a person declared of it."""

    name: str = Field(primary_key=True)
    phase: int | None = Field(default=None, foreign_key="phase.number", ondelete="SET NULL", index=True)
    position: int = 0
    base: str  # generic name of the base it is trained on
    adapter_path: str | None = None  # an adapter from elsewhere, copied in; trained here where absent
    data_path: str | None = None
    preset: str | None = None
    declared_status: str | None = None
    declared_quality: float | None = None
    declared_at: float | None = None
    created_at: float = Field(default_factory=time.time)


class Job(SQLModel, table=True):
    """One piece of work and the digest of its events."""

    __table_args__ = (
        Index("ix_job_state_priority", "state", "priority"),
        Index("ix_job_newest", "phase", "kind", "domain", "subject"),  # the newest of each piece of work
        Index("ix_job_domain_kind", "domain", "kind"),
        Index("ix_job_footprint", "footprint"),
        NEVER_AGAIN,
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    title: str
    state: str = "queued"
    key: str = Field(index=True)  # hash of kind, version, settings and inputs
    phase: int | None = Field(default=None, index=True)
    domain: str | None = None
    subject: str | None = None  # what it is about besides the domain: the base, or the file that is made
    priority: int = 0  # higher first
    heavy: bool = True
    attempt: int = 0
    params: str = "{}"
    inputs: str = "{}"
    out: str | None = None  # final path, relative to the workspace where inside
    created_at: float = Field(default_factory=time.time)
    started_at: float | None = None
    ended_at: float | None = None
    stop_requested_at: float | None = None
    step: int | None = None
    total: int | None = None
    unit: str = ""
    message: str = ""
    rate: float | None = None
    eta_s: float | None = None
    metrics: str = "{}"
    result: str = "{}"
    error: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    events_offset: int = 0
    run_dir: str | None = None
    failure: str | None = None  # what kind of end the newest attempt had: a key of core.runner.verdict.POLICY
    not_before: float | None = None  # a queued job waits until then before it is started again
    # How many steps below its preset it is run, for lack of memory.
    smaller: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    stop_reason: str | None = None  # why it is stopping: cancel or pause
    # What it is expected to take at its peak, in bytes; absent: nothing worth counting.
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    device_bytes: int | None = None
    beside_device_bytes: int | None = None  # of the machine's memory, where a device computes
    on_device: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})
    footprint: str | None = None  # jobs of the same one take the same: what was measured of them counts for the next
    let_in: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})  # a person: whatever it needs
    device: str | None = None  # the device it was given
    # What was predicted of it when it was queued; absent: nothing was.
    work: float | None = None  # how much there is to do, in its kind's own unit (core.phases.work)
    predicted_memory_bytes: int | None = None
    predicted_seconds: float | None = None
    predicted_by: str | None = None  # what the seconds come from


class JobDependency(SQLModel, table=True):
    """`job_id` runs only after `needs_id` succeeded."""

    __tablename__ = "job_dependency"
    job_id: int = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    needs_id: int = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE", index=True)


class JobAttempt(SQLModel, table=True):
    """How one attempt of a job went."""

    __tablename__ = "job_attempt"
    job_id: int = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    number: int = Field(primary_key=True)
    run_dir: str
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    failure: str | None = None
    detail: str | None = None
    reached: int | None = None  # the step it came to
    peak_rss_bytes: int | None = None


class Metric(SQLModel, table=True):
    """A live figure at a step: the series behind a loss plot."""

    __table_args__ = NEVER_AGAIN

    id: int | None = Field(default=None, primary_key=True)
    job_id: int = Field(foreign_key="job.id", ondelete="CASCADE", index=True)
    attempt: int
    step: int
    name: str
    value: float
    at: float


class Artifact(SQLModel, table=True):
    """Something a job made, or a person brought, under its final name."""

    __table_args__ = (UniqueConstraint("key"), NEVER_AGAIN)

    id: int | None = Field(default=None, primary_key=True)
    key: str
    kind: str = Field(index=True)
    name: str
    path: str
    sha256: str
    bytes: int
    meta: str = "{}"
    job_id: int | None = Field(default=None, foreign_key="job.id", ondelete="SET NULL")
    phase: int | None = None
    domain: str | None = Field(default=None, index=True)
    created_at: float = Field(default_factory=time.time)


class ArtifactParent(SQLModel, table=True):
    """`artifact_id` was made from `parent_id`."""

    __tablename__ = "artifact_parent"
    artifact_id: int = Field(primary_key=True, foreign_key="artifact.id", ondelete="CASCADE")
    parent_id: int = Field(primary_key=True, foreign_key="artifact.id", ondelete="CASCADE")


class Measurement(SQLModel, table=True):
    """A value somebody measured, with method, date and sample count."""

    __table_args__ = (Index("ix_measurement_name_domain_subject", "name", "domain", "subject"), NEVER_AGAIN)

    id: int | None = Field(default=None, primary_key=True)
    artifact_id: int | None = Field(default=None, foreign_key="artifact.id", ondelete="CASCADE", index=True)
    job_id: int | None = Field(default=None, foreign_key="job.id", ondelete="SET NULL")
    domain: str | None = Field(default=None, index=True)
    subject: str = ""
    name: str
    value: float | None = None
    text: str | None = None
    unit: str = ""
    method: str
    n: int | None = None
    measured_at: float = Field(default_factory=time.time)


class Release(SQLModel, table=True):
    """A version of a phase in a target folder."""

    __table_args__ = (UniqueConstraint("target", "version"), NEVER_AGAIN)

    id: int | None = Field(default=None, primary_key=True)
    phase: int = Field(index=True)
    version: int
    target: str
    bundle_key: str
    bundle_path: str
    manifest_sha256: str
    bytes: int
    job_id: int | None = Field(default=None, foreign_key="job.id", ondelete="SET NULL")
    created_at: float = Field(default_factory=time.time)


class Deployment(SQLModel, table=True):
    """A switch of a target to a release; the newest of a target is the active one."""

    __table_args__ = NEVER_AGAIN

    id: int | None = Field(default=None, primary_key=True)
    release_id: int = Field(foreign_key="release.id", ondelete="CASCADE", index=True)
    action: str  # deploy, rollback
    at: float = Field(default_factory=time.time)


class ChatTurn(SQLModel, table=True):
    """A message and its answer, with the routing decision that led to it."""

    __tablename__ = "chat_turn"
    id: int | None = Field(default=None, primary_key=True)
    session: str = Field(index=True)
    phase: int | None = None
    bundle: str | None = None
    domain: str | None = None
    message: str | None = None  # absent for crisis messages
    answer: str | None = None
    decision: str = "{}"
    tokens: int | None = None
    tokens_per_s: float | None = None
    at: float = Field(default_factory=time.time)
    user: str | None = Field(default=None, index=True)  # whose history it is part of
    emotions: str = Field(default="{}", sa_column_kwargs={"server_default": "{}"})  # as far as the reading was trusted
    crisis: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})  # no text, no emotions were kept


class Note(SQLModel, table=True):
    """What a person did that changed or overrode something: declared values, forced gates, removals."""

    id: int | None = Field(default=None, primary_key=True)
    at: float = Field(default_factory=time.time)
    subject: str
    action: str
    detail: str = "{}"


# All of them, parents first: in this order rows can be put in, in the other they can be taken out.
TABLES: tuple[type[SQLModel], ...] = (
    Fact, Phase, Domain, Job, JobDependency, JobAttempt, Metric, Artifact, ArtifactParent, Measurement, Release,
    Deployment, ChatTurn, Note,
)  # fmt: skip
