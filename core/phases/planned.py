"""What a plan is made of: jobs, each under its key, in an order in which they can run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.phases.forecast import Expected
from core.phases.kinds import KINDS
from core.runner.admission import Need

SHORT_KEY = 8


@dataclass(frozen=True)
class PlannedJob:
    """One job of a plan. `inputs` maps names to stored paths (or to such mappings); `done`: its artifact is there."""

    kind: str
    title: str
    key: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    out: Path | None
    needs: tuple[str, ...] = ()
    phase: int | None = None
    domain: str | None = None
    priority: int = 0
    done: bool = False
    subject: str | None = None  # what it is about besides the domain
    need: Need = field(default_factory=Need)
    footprint: str | None = None  # jobs of the same one take the same memory
    bases: tuple[str, ...] = ()
    work: float | None = None  # core.phases.work; absent, as what is expected, where it is done
    expected: Expected | None = None

    @property
    def heavy(self) -> bool:
        """Whether it takes the machine."""
        return KINDS[self.kind].heavy


@dataclass(frozen=True)
class Compression:
    """How the bases of a phase become small files: the plain type, the technique, the bytes each file may have, where
    that was said, and whether adapters give back a part of what the rounding took."""

    quantization: str
    technique: str = "standard"
    target_bytes: int | None = None
    repair: bool = False


@dataclass(frozen=True)
class DomainSource:
    """What a plan needs to know of a domain in the store."""

    name: str
    base: str
    preset: str | None = None
    data_path: str | None = None
    adapter_path: str | None = None  # an imported adapter, relative to the workspace
    shaping: Mapping[str, Any] | None = None  # settings of an older training, to be used in place of the present ones


@dataclass
class Plan:
    """Jobs in an order in which every job comes after what it needs, by key."""

    jobs: dict[str, PlannedJob] = field(default_factory=dict)
    bundle: str | None = None  # the key of the bundle, where the plan makes one

    def missing(self) -> list[PlannedJob]:
        """What there is to do."""
        return [job for job in self.jobs.values() if not job.done]


@dataclass
class Parts:
    """What a bundle is made of: models by the names they have in it, and what else its domains need. `merge` says how
    domains are part of the models, where they are."""

    models: dict[str, PlannedJob] = field(default_factory=dict)
    whole: dict[str, PlannedJob] = field(default_factory=dict)  # their F16 files
    ggufs: dict[str, PlannedJob] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)  # the base each comes from
    answering: dict[str, str] = field(default_factory=dict)  # which model a domain answers from
    adapters: dict[str, PlannedJob] = field(default_factory=dict)
    verdicts: dict[str, PlannedJob] = field(default_factory=dict)
    checks: dict[str, PlannedJob] = field(default_factory=dict)  # what a model lost that parts were taken out of
    gate: PlannedJob | None = None  # what judged the files' quality, where the phase has a threshold
    delivered: PlannedJob | None = None  # what measured it
    merge: dict[str, Any] | None = None
