"""Where the console's facts come from and where its wishes go: the protocols the app knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.store.views import Snapshot

if TYPE_CHECKING:
    from core.phases.unfinished import Choice


class SnapshotReader(Protocol):
    """A connection that only reads; used by the thread that opened it."""

    def snapshot(self, jobs: int = 200) -> Snapshot:
        """Everything the dashboard shows."""

    def changed(self) -> bool:
        """Whether the store moved since the last call; cheap."""

    def close(self) -> None:
        """Let the store go."""


@dataclass(frozen=True)
class Routed:
    """Which domain answers, and why."""

    domain: str
    explanation: str  # one line that names the domain too
    details: tuple[str, ...] = ()  # the decision part by part


@dataclass(frozen=True)
class Notice:
    """Something to read that the model did not write: resources in a crisis, that an engine was started again. `anew`:
    what came of the answer so far is void, another one begins."""

    text: str
    anew: bool = False


@dataclass(frozen=True)
class Token:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Compared:
    """Two domains answered: which answer was taken and why, and the other one."""

    line: str
    other: str  # who gave the answer that was not taken
    text: str


@dataclass(frozen=True)
class Done:
    """The answer is complete, or was stopped."""

    tokens: int
    tokens_per_s: float | None
    reason: str  # eos, stop, length, cancelled
    told: str = ""  # what it took, in a line


ChatEvent = Routed | Notice | Token | Compared | Done


@dataclass(frozen=True)
class Bundle:
    """Something one can talk to: a release where `version` is set, a single model or adapter (`file`), else a bundle
    that is not deployed."""

    path: str  # of the artifact, relative to the workspace
    label: str
    target: str = ""
    version: int | None = None
    file: bool = False
    phase: int | None = None


@dataclass(frozen=True)
class Service:
    """Whether the machine starts the runner, and what that means."""

    installed: bool
    lines: tuple[str, ...]


class ChatSession(Protocol):
    """A conversation with one bundle, through an engine process of its own."""

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """Answer a question, routed, or by the domain named. Blocks between events; raises TaraError."""

    def prepare(self, domain: str | None) -> None:
        """Have the engine loaded before the first question. Raises TaraError."""

    def prefer(self, name: str) -> str:
        """Speed, balanced or quality from the next question on; what that means, in a line."""

    def stats(self) -> str:
        """What its caches knew, in a line."""

    def forget_person(self) -> None:
        """Take nothing from the person's history any more: it was erased."""

    def cancel(self) -> None:
        """Stop the answer that is being made; from any thread."""

    def close(self) -> None:
        """End the engine process; from any thread, also in the middle of an answer."""


class Backend(Protocol):
    """One workspace. Every method may block and is called in a thread; wishes return one line on what was done.

    Raises TaraError for what a person can mend.
    """

    @property
    def root(self) -> Path:
        """The workspace's folder."""

    def open_reader(self) -> SnapshotReader:
        """A reader for the calling thread."""

    def domain_names(self) -> list[str]:
        """The domains that the workspace's files describe."""

    def build_phase(self, number: int, unfinished: "Choice | None" = None, reason: str = "") -> str:
        """Queue what is missing of a phase. Raises SettingsChanged where a choice is to be made, which `unfinished`
        then says, BelowThreshold where domains are below its quality threshold; `reason` is why it goes on, or ''."""

    def build_as(self, number: int, values: dict[str, str], reason: str = "") -> str:
        """Queue what is missing of a phase that is built as the lines of a form say; `reason` as for `build_phase`."""

    def train_domain(self, domain: str, unfinished: "Choice | None" = None) -> str:
        """Queue the training of a domain; as for `build_phase` there may be a choice to be made."""

    def checkpoints(self, domain: str) -> list[str]:
        """The checkpoints of a domain's trainings as lines; those of one run are indented below its own line."""

    def plan_phase(self, number: int) -> list[str]:
        """What building a phase would take, as lines; heads are not indented."""

    def plan_domain(self, domain: str) -> list[str]:
        """What training a domain would take."""

    def phase_outcome(self, number: int) -> list[str]:
        """What came of a phase (`core.phases.outcome`), as lines; the heads of tables are not indented."""

    def compare_phase(self, number: int, others: str) -> list[str]:
        """A phase's models and others (numbers, file names, paths, phase:N, between spaces) side by side, as lines; the
        heads of tables are not indented."""

    def measure_phase(self, number: int) -> str:
        """Queue the measurement of a phase's models."""

    def export_domain(self, domain: str, quantization: str) -> str:
        """Queue a domain merged into its base as one file; '' is F16. Says where it will be."""

    def recommend_phase(self, number: int, target: str, quality: str, memory: str, speed: str) -> list[str]:
        """The ways to build a phase in order, as lines; '' is what the phase or the machine has."""

    def cancel_job(self, job_id: int) -> str:
        """Cancel a job."""

    def pause_job(self, job_id: int) -> str:
        """Pause a job."""

    def resume_job(self, job_id: int) -> str:
        """Let a paused job go on."""

    def retry_job(self, job_id: int) -> str:
        """Queue a failed job again."""

    def let_in_job(self, job_id: int) -> str:
        """Have a queued job started whatever it needs."""

    def service(self) -> Service:
        """Whether the machine starts the runner."""

    def install_service(self) -> str:
        """Have the machine start the runner."""

    def remove_service(self) -> str:
        """Undo that."""

    def deploy_phase(self, number: int, target: str, reason: str) -> str:
        """Queue the deployment of a phase's newest bundle to a folder ('': the usual one, relative: to the workspace).

        `reason` is why it is deployed below its quality threshold, or ''. Raises BelowThreshold where it needs one.
        """

    def rollback_phase(self, number: int, version: int, target: str) -> str:
        """Make an earlier release the active one of its target."""

    def create_phase(
        self, number: int, domains: list[str], quantization: str, compression: str = "", target_mb: float | None = None
    ) -> str:
        """Make a phase; '' is the configured quantization, and plain compression."""

    def add_domain(self, number: int, domain: str, adapter: str) -> str:
        """Put a domain into a phase; `adapter` is a folder made elsewhere, or ''."""

    def introduce_domain(self, name: str, examples: str, description: str, keywords: list[str]) -> str:
        """Add a domain to the catalogue; what is '' or empty is taken from the file `examples`, if one is named."""

    def route_text(self, number: int | None, text: str) -> list[str]:
        """Where a message would go among a phase's domains, or with None the catalogue's, and every part of why."""

    def remove_domain(self, number: int, domain: str) -> str:
        """Take a domain out of a phase."""

    def advance_phase(self) -> str:
        """Make the next phase the current one."""

    def start_runner(self) -> str:
        """Start the process that runs queued jobs and follows the running ones."""

    def revive_runner(self) -> str:
        """As `start_runner`, unless a person stopped it; '' where nothing was to be done."""

    def open_chat(self, bundle: Bundle) -> ChatSession:
        """A conversation with a bundle."""

    def artifacts(self) -> list[Bundle]:
        """The models, adapters and bundles one can talk to, newest first."""

    def talk_of(self, domain: str | None, job_id: int | None) -> Bundle:
        """What a job made, or the newest adapter of a domain, to talk to. Raises Refused where there is none."""

    def smoke_phase(self, number: int, domain: str | None) -> list[str]:
        """Ask a phase's bundle the canned prompts; the report as lines, those of one prompt indented."""

    def history(self) -> list[str]:
        """What is remembered of this person's chats, as lines; the turns are indented."""

    def erase_history(self) -> str:
        """Delete it."""
