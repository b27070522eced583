"""The console's backend over a workspace: facts from its store, wishes to its services."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InvalidInput
from core.workspace import Workspace
from tara_tui.backend import Bundle, ChatSession, Service, SnapshotReader

if TYPE_CHECKING:
    from core.phases.unfinished import Choice


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
        from core.phases.outlook import checked, outlook_of_phase
        from tara_tui.details import plan_lines

        return plan_lines(outlook_of_phase(self.workspace, number), checked(self.workspace, phase=number)[1])

    def plan_domain(self, domain: str) -> list[str]:
        """What training a domain would take, as lines."""
        from core.phases.outlook import outlook_of_domain
        from tara_tui.details import plan_lines

        return plan_lines(outlook_of_domain(self.workspace, domain))

    def compare_phase(self, number: int, others: str) -> list[str]:
        """A phase's models and others side by side, as lines."""
        from core.phases.compared import tables
        from core.phases.measured import artifacts_of, figures, models_of_phase
        from core.store.reads import open_reader
        from tara_tui.details import TABLE_WIDTH, table_lines

        with open_reader(self.workspace) as reader:
            models = artifacts_of(reader, _words(others), models_of_phase(reader, number))
            known = [figures(reader, model) for model in models]
        return [line for one in tables(models, known, TABLE_WIDTH) for line in table_lines(*one)]

    def phase_outcome(self, number: int) -> list[str]:
        """What came of a phase, as lines; the heads of tables are not indented."""
        from core.phases.outcome import outcome, unified
        from core.store.reads import open_reader
        from tara_tui.details import outcome_lines

        with open_reader(self.workspace) as reader:
            phase = reader.phase(number)
            kept = unified(reader, phase)
            return outcome_lines([*outcome(reader, phase), *([kept] if kept is not None else [])])

    def recommend_phase(self, number: int, target: str, quality: str, memory: str, speed: str) -> list[str]:
        """The ways to build a phase in order, as lines."""
        from core.phases.kinds import NO_TARGET
        from core.phases.recommended import lines
        from core.phases.recommending import Wish, recommend_phase
        from tara_tui.build_form import number as told

        wish = Wish(
            told(target, "a target size is a number of megabytes") if target else NO_TARGET,
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

    def export_domain(self, domain: str, quantization: str) -> str:
        """Queue a domain merged into its base as one file."""
        from core.phases.service import export_domain

        ids, path = export_domain(self.workspace, domain, quantization or "F16")
        where = self.workspace.relative(path)
        return f"{jobs_line(f'export of {domain}', ids)}: {where}" if ids else f"{domain} is exported already: {where}"

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

    def introduce_domain(self, name: str, examples: str, description: str, keywords: list[str]) -> str:
        """Add a domain to the catalogue."""
        from core.phases.introducing import introduce_domain

        return introduce_domain(
            self.workspace, name, description=description or None, keywords=keywords or None,
            examples=Path(examples) if examples else None,
        ).line()  # fmt: skip

    def route_text(self, number: int | None, text: str) -> list[str]:
        """Where a message would go."""
        from core.phases.routed import desk_of_phase
        from core.routing import explain

        with desk_of_phase(self.workspace, number, lambda _: None) as desk:
            first, *parts = explain(desk.route(text))
        return [first, *(f"  {line}" for line in parts)]

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

        if bundle.file:
            return EngineChat.open(self.workspace, bundle.path)
        folder = self.workspace.absolute(bundle.path)
        if bundle.version is not None:
            folder = self.workspace.absolute(bundle.target) / VERSIONS / str(bundle.version)
        return EngineChat.open(self.workspace, folder, bundle.phase)

    def artifacts(self) -> list[Bundle]:
        """The models, adapters and bundles one can talk to, newest first."""
        from core.phases.talking import talkable
        from core.store.reads import open_reader

        with open_reader(self.workspace) as reader:
            return [_as_bundle(row) for row in talkable(reader)]

    def talk_of(self, domain: str | None, job_id: int | None) -> Bundle:
        """What a job made, or the newest adapter of a domain, to talk to."""
        from core.phases.talking import made_by, newest_of
        from core.store.reads import open_reader

        with open_reader(self.workspace) as reader:
            return _as_bundle(made_by(reader, job_id) if job_id is not None else newest_of(reader, domain or ""))

    def smoke_phase(self, number: int, domain: str | None) -> list[str]:
        """Ask a phase's bundle the canned prompts; the report as lines."""
        from core.phases.smoked import report_lines
        from core.phases.smoking import smoke_phase

        return report_lines(smoke_phase(self.workspace, number, domain).as_json())

    def history(self) -> list[str]:
        """What is remembered of this person's chats, as lines."""
        from core.catalog.loading import load_settings
        from core.chat.history import history_of, user_named

        hours = load_settings(self.workspace).history_half_life_h
        return history_of(self.workspace, user_named(None), hours, 100).lines()

    def erase_history(self) -> str:
        """Delete it."""
        from core.chat.history import erase, user_named

        user = user_named(None)
        return f"{erase(self.workspace, user)} chat turns of {user} erased"


def _as_bundle(row: dict[str, Any]) -> Bundle:
    """An artifact as something to talk to."""
    what = {"gguf": "model", "gguf-adapter": "adapter"}.get(row["kind"], row["kind"])
    file = row["path"].rpartition("/")[2]
    return Bundle(row["path"], f"{what} {file}", file=row["kind"] != "bundle", phase=row["phase"])


def _words(text: str) -> list[str]:
    """What is between spaces; a path that holds one is in quotation marks. Raises InvalidInput."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"{text}: {str(error).lower()}", "close the quotation mark") from error
