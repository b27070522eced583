"""`tara quickstart`: the starter phase, from nothing to answers."""

import time
from pathlib import Path
from typing import Any

import click

from core.cli.common import figure, json_option, print_json, root_option, workspace_of
from core.cli.follow import wait_for
from core.errors import Refused, SettingsChanged
from core.store.views import JobView, PhaseView
from core.text import clean, size, span, table
from core.workspace import Workspace

PHASE = 1
DOMAINS = ("healthcare", "business", "education", "creative", "leadership")
SESSION = "quickstart"
LONGEST_ANSWER = 160  # tokens


@click.command("quickstart")
@root_option
@json_option
def quickstart(root: str | None, as_json: bool) -> None:
    """Build, release and try the starter phase: five domains on the embedded base model.

    What is there already is not made again.
    """
    from core.deploy import service as deploying
    from core.phases import service
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    started = time.monotonic()
    with open_reader(workspace) as reader:
        exists = any(phase.number == PHASE for phase in reader.phases())
    if not exists:
        service.create_phase(workspace, PHASE, DOMAINS)
        _say(as_json, f"phase {PHASE} created: {', '.join(DOMAINS)}")
    try:
        built = service.build_phase(workspace, PHASE)
    except SettingsChanged as error:
        hint = f"tara build-phase {PHASE} --resume-old or --fresh comes first"
        raise Refused(error.message, hint) from error
    _say(as_json, f"{len(built)} jobs to do" if built else f"phase {PHASE} is built: no work to do")
    wait_for(workspace, built, quiet=as_json)
    job = deploying.deploy_phase(workspace, PHASE)
    if job is not None:
        wait_for(workspace, [job], quiet=as_json)
    with open_reader(workspace) as reader:
        phase = reader.phase(PHASE)
    answers = _answers(workspace, phase, as_json)
    with open_reader(workspace) as reader:
        jobs = reader.jobs(phase=PHASE)
    rows = _rows(workspace, phase, jobs)
    if as_json:
        print_json(
            {
                "phase": PHASE,
                "domains": rows,
                "answers": answers,
                "jobs_run": len(built),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        return
    click.echo()
    shown = [
        (
            row["domain"],
            _number(row["base_loss"]),
            _number(row["tuned_loss"]),
            f"{100 * (row['tuned_loss'] / row['base_loss'] - 1):+.1f}%"
            if row["tuned_loss"] and row["base_loss"]
            else "-",
            _number(row["quality"]),
            size(row["adapter_bytes"]),
            span(row["seconds"]),
        )
        for row in rows
    ]
    click.echo(
        table(
            ("domain", "base loss", "tuned loss", "change", "quality", "adapter", "time"),
            shown,
            right=(1, 2, 3, 4, 5, 6),
        )
    )
    click.echo("loss and quality (token accuracy) are of held-out examples, which no training saw")
    release = next((one for one in phase.releases if one.active), None)
    if release is not None:
        where = workspace.relative(Path(release.target))
        click.echo(f"release: version {release.version} in {where}, {size(release.bytes)}, {phase.quantization}")
    click.echo(
        f"{span(time.monotonic() - started)} in all; next: tara chat, tara show-phase {PHASE}, or tara for the console"
    )


def _answers(workspace: Workspace, phase: PhaseView, as_json: bool) -> list[dict[str, Any]]:
    """One question for each domain, routed and answered by the release; asked once a release, then read back."""
    from core.chat.history import turns_of
    from core.chat.session import Conversation
    from core.deploy.current import release_folder

    folder = release_folder(workspace, phase.number)
    assert folder is not None
    catalogue = {domain.name: question for domain, question in _questions(workspace, phase)}
    asked = {turn["message"]: turn for turn in turns_of(workspace, SESSION, str(folder))}
    found: list[dict[str, Any]] = []
    missing = [question for question in catalogue.values() if question not in asked]
    if missing:
        from core.chat.history import remember
        from core.chat.protocol import SamplingOptions

        sampling = SamplingOptions(max_tokens=LONGEST_ANSWER, temperature=0)
        with Conversation(folder, sampling=sampling) as conversation:
            for question in missing:
                conversation.reset()
                turn = conversation.ask(question)
                text = "".join(turn.pieces())
                remember(workspace, SESSION, str(folder), phase.number, turn, text)
    for kept in turns_of(workspace, SESSION, str(folder)):
        if kept["message"] in catalogue.values():
            found.append(kept)
            if not as_json:
                where = kept["domain"] or "unsure, so the base"
                speed = f", {kept['tokens_per_s']:.0f} tok/s" if kept["tokens_per_s"] else ""
                click.echo(f"\n> {clean(kept['message'])}\n[{where}{speed}] {clean(kept['answer'] or '')}")
    return found


def _questions(workspace: Workspace, phase: PhaseView) -> list[tuple[Any, str]]:
    from core.catalog import load_catalog

    catalog = load_catalog(workspace)
    return [(domain, catalog.domain(domain.name).example_question) for domain in phase.domains]


def _rows(workspace: Workspace, phase: PhaseView, jobs: list[JobView]) -> list[dict[str, Any]]:
    """What the store holds of each domain."""
    from core.store.reads import open_reader

    with open_reader(workspace) as reader:
        converted = {row["domain"]: row["bytes"] for row in reversed(reader.artifacts(kind="gguf-adapter"))}
    rows = []
    for domain in phase.domains:
        took = {
            job.kind: (job.ended_at or 0) - (job.started_at or 0)
            for job in jobs
            if job.domain == domain.name and job.started_at
        }
        measured = {name: domain.measurements.get(name) for name in ("base_loss", "tuned_loss", "quality")}
        rows.append(
            {
                "domain": domain.name,
                **{name: one.value if one is not None else None for name, one in measured.items()},
                "adapter_bytes": converted.get(domain.name),
                "seconds": round(sum(took.values()), 1) if took else None,
            }
        )
    return rows


def _number(value: float | None) -> str:
    return figure(None) if value is None else f"{value:.3f}"


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text)
