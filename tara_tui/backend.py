"""Where the console's facts come from and where its wishes go. The app knows only the protocols."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.store.views import Snapshot
from core.workspace import Workspace

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
    """Something to read before the answer that the model did not write: resources in a crisis."""

    text: str


@dataclass(frozen=True)
class Token:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is complete, or was stopped."""

    tokens: int
    tokens_per_s: float | None
    reason: str  # eos, stop, length, cancelled


ChatEvent = Routed | Notice | Token | Done


@dataclass(frozen=True)
class Bundle:
    """Something one can talk to: a release where `version` is set, else a bundle that is not deployed."""

    path: str  # folder of the bundle artifact, relative to the workspace
    label: str
    target: str = ""
    version: int | None = None


@dataclass(frozen=True)
class Service:
    """Whether the machine starts the runner, and what that means."""

    installed: bool
    lines: tuple[str, ...]


class ChatSession(Protocol):
    """A conversation with one bundle, through an engine process of its own."""

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """Answer a question, routed, or by the domain named. Blocks between events; raises TaraError."""

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

    def compare_phase(self, number: int) -> list[str]:
        """A phase's models side by side, as lines; the heads of tables are not indented."""

    def measure_phase(self, number: int) -> str:
        """Queue the measurement of a phase's models."""

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


def jobs_line(what: str, ids: list[int]) -> str:
    """One line on queued jobs."""
    if not ids:
        return f"{what}: nothing is missing, no job was queued"
    numbers = str(ids[0]) if len(ids) == 1 else f"{min(ids)} to {max(ids)}"
    return f"{what}: {len(ids)} job{'s' * (len(ids) > 1)} queued ({numbers})"


class StoreBackend:
    """The real one. Services are imported when first used: they bring SQLModel, slower than the first paint."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @property
    def root(self) -> Path:
        """The workspace's folder."""
        return self.workspace.root

    def open_reader(self) -> SnapshotReader:
        """A reader of state.db for the calling thread."""
        from core.store.reads import open_reader

        return open_reader(self.workspace)

    def domain_names(self) -> list[str]:
        """The domains of the catalog."""
        from core.catalog import load_catalog

        return sorted(load_catalog(self.workspace).domains)

    def build_phase(self, number: int, unfinished: "Choice | None" = None, reason: str = "") -> str:
        """Queue what is missing of a phase."""
        from core.phases.service import Asked, build_phase

        asked = Asked(override_quality=reason or None)
        return jobs_line(f"build of phase {number}", build_phase(self.workspace, number, asked, unfinished=unfinished))

    def build_as(self, number: int, values: dict[str, str], reason: str = "") -> str:
        """Queue what is missing of a phase that is built so."""
        from core.phases.service import build_phase
        from tara_tui.build_form import asked_of

        return jobs_line(f"build of phase {number}", build_phase(self.workspace, number, asked_of(values, reason)))

    def train_domain(self, domain: str, unfinished: "Choice | None" = None) -> str:
        """Queue the training of a domain."""
        from core.phases.service import train_domain

        return jobs_line(f"training of {domain}", train_domain(self.workspace, domain, unfinished=unfinished))

    def checkpoints(self, domain: str) -> list[str]:
        """The checkpoints of a domain's trainings as lines."""
        from core.phases.checkpoints import list_runs
        from tara_tui.details import checkpoint_lines

        return [line for one in list_runs(self.workspace, domain) for line in checkpoint_lines(one)]

    def plan_phase(self, number: int) -> list[str]:
        """What building a phase would take, as lines."""
        from core.phases.outlook import outlook_of_phase
        from tara_tui.details import plan_lines

        return plan_lines(outlook_of_phase(self.workspace, number))

    def plan_domain(self, domain: str) -> list[str]:
        """What training a domain would take, as lines."""
        from core.phases.outlook import outlook_of_domain
        from tara_tui.details import plan_lines

        return plan_lines(outlook_of_domain(self.workspace, domain))

    def compare_phase(self, number: int) -> list[str]:
        """A phase's models side by side, as lines."""
        from core.phases.compared import tables
        from core.phases.measured import figures, models_of_phase
        from core.store.reads import open_reader
        from tara_tui.details import COMPARED_WIDTH, table_lines

        with open_reader(self.workspace) as reader:
            models = models_of_phase(reader, number)
            known = [figures(reader, model) for model in models]
        return [line for one in tables(models, known, COMPARED_WIDTH) for line in table_lines(*one)]

    def recommend_phase(self, number: int, target: str, quality: str, memory: str, speed: str) -> list[str]:
        """The ways to build a phase in order, as lines."""
        from core.phases.recommended import lines
        from core.phases.recommending import Wish, recommend_phase
        from tara_tui.build_form import number as told

        wish = Wish(
            told(target, "a target size is a number of megabytes"),
            quality or None,
            None if not speed else speed.lower() in ("y", "yes"),
            told(memory, "memory is a number of megabytes"),
        )
        head, *rest = lines(recommend_phase(self.workspace, number, wish))
        return [head, *(f" {line}" for line in rest)]

    def measure_phase(self, number: int) -> str:
        """Queue the measurement of a phase's models."""
        from core.phases.measuring import measure_artifact

        ids, _ = measure_artifact(self.workspace, f"phase:{number}")
        return jobs_line(f"measurement of phase {number}", ids) if ids else f"phase {number} is measured: M shows it"

    def cancel_job(self, job_id: int) -> str:
        """Cancel a job."""
        from core.runner.client import cancel_jobs

        cancel_jobs(self.workspace, [job_id])
        return f"job {job_id}: cancelling"

    def pause_job(self, job_id: int) -> str:
        """Pause a job."""
        from core.runner.client import pause_jobs

        pause_jobs(self.workspace, [job_id])
        return f"job {job_id}: pausing; p lets it go on"

    def resume_job(self, job_id: int) -> str:
        """Let a paused job go on."""
        from core.runner.client import resume_jobs

        return jobs_line(f"resumption of job {job_id}", resume_jobs(self.workspace, [job_id]))

    def retry_job(self, job_id: int) -> str:
        """Queue a failed job again."""
        from core.runner.client import retry_jobs

        return jobs_line(f"retry of job {job_id}", retry_jobs(self.workspace, [job_id]))

    def let_in_job(self, job_id: int) -> str:
        """Have a queued job started whatever it needs."""
        from core.runner.client import let_in_jobs

        let_in_jobs(self.workspace, [job_id])
        return f"job {job_id}: starts as soon as a slot is free"

    def service(self) -> Service:
        """Whether the machine starts the runner."""
        from core.runner import service

        found = service.status(self.workspace)
        lines = (
            f"installed: {found.kind} ({found.where})" if found.kind else "installed: nothing",
            f"after a restart: {found.after_reboot}",
            f"after a logout: {found.after_logout}",
        )
        return Service(found.kind is not None, lines)

    def install_service(self) -> str:
        """Have the machine start the runner."""
        from core.runner import service

        found = service.install(self.workspace)
        return f"installed ({found.kind}); after a restart: {found.after_reboot}"

    def remove_service(self) -> str:
        """Undo that."""
        from core.runner import service

        return "the machine no longer starts the runner" if service.remove(self.workspace) else "nothing was installed"

    def deploy_phase(self, number: int, target: str, reason: str) -> str:
        """Queue the deployment of a phase."""
        from core.deploy.service import deploy_phase

        folder = self.workspace.absolute(Path(target).expanduser()) if target else None
        job_id = deploy_phase(self.workspace, number, target=folder, override_quality=reason or None)
        if job_id is None:
            return f"phase {number}: the target has this very bundle as its current version"
        return f"deployment of phase {number}: job {job_id} queued"

    def rollback_phase(self, number: int, version: int, target: str) -> str:
        """Make an earlier release the active one of its target."""
        from core.deploy.service import rollback

        before, now, folder = rollback(self.workspace, number, to=version, target=target)
        return f"phase {number}: v{now} is active again in place of v{before} ({self.workspace.relative(folder)})"

    def create_phase(
        self, number: int, domains: list[str], quantization: str, compression: str = "", target_mb: float | None = None
    ) -> str:
        """Make a phase."""
        from core.phases.service import create_phase

        create_phase(
            self.workspace, number, domains, quantization=quantization or None,
            compression_type=compression or "standard", target_size_mb=target_mb,
        )  # fmt: skip
        return f"phase {number} made with {len(domains)} domain{'s' * (len(domains) != 1)}"

    def add_domain(self, number: int, domain: str, adapter: str) -> str:
        """Put a domain into a phase."""
        from core.phases.service import add_domain

        changed = add_domain(self.workspace, number, domain, adapter_path=adapter or None)
        return f"{domain} is in phase {number}" + ("" if changed else " already; nothing changed")

    def remove_domain(self, number: int, domain: str) -> str:
        """Take a domain out of a phase."""
        from core.phases.removal import remove_domain

        remove_domain(self.workspace, number, domain)
        return f"{domain} is no longer in phase {number}"

    def advance_phase(self) -> str:
        """Make the next phase the current one."""
        from core.phases.declaring import advance_phase

        before, after = advance_phase(self.workspace)
        return f"phase {before} is done" + (f"; phase {after} is now the current one" if after is not None else "")

    def start_runner(self) -> str:
        """Start the workspace's runner unless one lives."""
        from core.runner.client import ensure_runner

        return f"the runner is at work (process {ensure_runner(self.workspace)})"

    def revive_runner(self) -> str:
        """Start the workspace's runner where it is gone and nobody stopped it."""
        from core.runner.client import revive_runner

        return "the runner was gone, so it was started again" if revive_runner(self.workspace) else ""

    def open_chat(self, bundle: Bundle) -> ChatSession:
        """A conversation through an engine process, with the deployed files where it is a release."""
        from core.deploy.releases import VERSIONS
        from tara_tui.engine_chat import EngineChat

        folder = self.workspace.absolute(bundle.path)
        if bundle.version is not None:
            folder = self.workspace.absolute(bundle.target) / VERSIONS / str(bundle.version)
        return EngineChat.open(folder, self.workspace)
