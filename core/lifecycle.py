"""The states of phases and domains: which moves are allowed, and how a state follows from jobs and artifacts.

Pure functions over plain values: the store's readers derive states with them, the services guard moves with them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PHASE_STATES = ("planning", "training", "merging", "compressing", "deployed", "failed")
DOMAIN_STATES = ("pending", "training", "complete", "failed")

PHASE_MOVES: Mapping[str, frozenset[str]] = {
    "planning": frozenset({"training", "merging", "compressing", "failed"}),
    "training": frozenset({"planning", "merging", "compressing", "failed"}),
    "merging": frozenset({"training", "compressing", "failed"}),
    "compressing": frozenset({"training", "merging", "deployed", "failed"}),
    "deployed": frozenset({"training", "merging", "compressing", "failed"}),
    "failed": frozenset({"planning", "training", "merging", "compressing", "deployed"}),
}
DOMAIN_MOVES: Mapping[str, frozenset[str]] = {
    "pending": frozenset({"training", "complete", "failed"}),  # complete at once: an adapter from elsewhere
    "training": frozenset({"pending", "complete", "failed"}),
    "complete": frozenset({"pending", "training", "failed"}),
    "failed": frozenset({"pending", "training", "complete"}),
}

# Which stage of a phase a kind of job belongs to, in the order the stages are passed.
STAGE_OF_KIND: Mapping[str, str] = {
    "base": "training",
    "train": "training",
    "evaluate": "training",
    "merge": "merging",
    "unify": "merging",
    "check-merge": "merging",
    "accept-merge": "merging",
    "quality-gate": "merging",
    "convert": "merging",
    "adapter-convert": "merging",
    "imatrix": "compressing",
    "quantize": "compressing",
    "type-costs": "compressing",
    "hybrid": "compressing",
    "prune": "compressing",
    "teach": "compressing",
    "heal": "compressing",
    "distil": "compressing",
    "slice-adapter": "compressing",
    "check-small": "compressing",
    "check-delivered": "compressing",
    "repair": "compressing",
    "repair-adapter": "compressing",
    "keep": "compressing",
    "verify": "compressing",
    "package": "compressing",
    "deploy": "compressing",
}
EXPORT_KINDS = frozenset(
    {"merge", "convert", "imatrix", "quantize"}
)  # with a domain: of its single file; else of a base
EXPORT_ALONE = "verify"  # with a domain: of its single file, also where a bundle is made of such files
_STAGES = ("training", "merging", "compressing")
UNDONE = frozenset({"queued", "starting", "running", "stopping", "paused"})
_FAILED = frozenset({"failed", "interrupted"})  # what a person cancelled did not fail; it is not done


@dataclass(frozen=True)
class JobFact:
    """What deriving a state needs of a job."""

    kind: str
    state: str
    key: str
    domain: str | None = None
    subject: str | None = None  # the base a job without a domain is about


def latest_of_each(jobs: Iterable[JobFact]) -> list[JobFact]:
    """The newest job of each piece of work (kind, domain and base); `jobs` come oldest first."""
    newest: dict[tuple[str, str | None, str | None], JobFact] = {}
    for job in jobs:
        newest[(job.kind, job.domain, job.subject)] = job
    return list(newest.values())


def domain_state(
    jobs: Iterable[JobFact], *, has_adapter: bool, evaluated: bool, declared: str | None = None
) -> tuple[str, bool]:
    """A domain's state and whether it is only declared.

    `jobs` are the domain's own, oldest first. A declared state holds until a job of the domain is newer; the caller
    passes it only then.
    """
    if declared is not None:
        return declared, True
    training = [job for job in latest_of_each(jobs) if job.kind in ("train", "evaluate")]
    if any(job.state in ("starting", "running", "stopping") for job in training):
        return "training", False
    if any(job.state in ("queued", "paused") for job in training):
        # The evaluation waits for the training: between the two the domain is still in training.
        return ("training", False) if has_adapter else ("pending", False)
    if any(job.state in _FAILED for job in training):
        return "failed", False
    return ("complete", False) if has_adapter and evaluated else ("pending", False)


def phase_state(
    jobs: Iterable[JobFact], *, trained: int, domains: int, bundled: bool, deployed: bool, merged: bool = False
) -> str:
    """A phase's state from the jobs of the phase (oldest first) and what exists.

    Undone jobs win: the earliest stage with one is the state. Then failures not made good since, then what was reached.
    Where the bundle last asked for is there, only a failed deployment is not made good. Exports of single domains are
    no step of a phase, unless it is `merged`: its bundle is made of the same files.
    """
    exporting = {EXPORT_ALONE} if merged else {EXPORT_ALONE, *EXPORT_KINDS}
    newest = [job for job in latest_of_each(jobs) if not (job.domain and job.kind in exporting)]
    for stage in _STAGES:
        if any(job.state in UNDONE and STAGE_OF_KIND.get(job.kind) == stage for job in newest):
            return stage
    if any(job.state in _FAILED and (job.kind == "deploy" if bundled else job.kind in STAGE_OF_KIND) for job in newest):
        return "failed"
    if deployed:
        return "deployed"
    if bundled:
        return "compressing"
    if domains and trained == domains:
        return "merging"
    return "training" if trained else "planning"


def next_step(
    state: str, *, number: int, bundled: bool, domains: int, newer: bool = False, current: bool = True
) -> str:
    """What a person does next with a phase, in a phrase. `newer`: its bundle is not the one that is deployed."""
    if state == "deployed":
        steps = [f"deploy-phase {number} (the build is not the one deployed)"] if newer else []
        steps += ["advance-phase"] if current else []
        return ", or ".join(steps + ([] if newer else ["build again after a change"]))
    if state == "failed":
        again = "deploy-phase" if bundled else "build-phase"
        return f"see the failed job (tara jobs list), then {again} {number} again"
    if bundled:
        return f"deploy-phase {number}"
    if not domains:
        return f"add-domain {number} NAME"
    if state == "planning":
        return f"build-phase {number}"
    return f"build-phase {number} goes on from here"
