"""Commands that show phases."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import NUMBER, figure, json_option, print_json, root_option, true_reader
from core.cli.merging import checks_json, merge_line, merge_table
from core.store.views import DomainView, Measurement, PhaseView
from core.text import NOT_MEASURED, clean, figure_table, iso, size, table

if TYPE_CHECKING:
    from core.store.reads import Reader

_NAMES = ("base_loss", "tuned_loss", "base_accuracy", "quality", "tokens_per_s", "first_token_s")


def domain_json(domain: DomainView) -> dict[str, Any]:
    """A domain for scripts: values by name (null where not measured), and how and when each was measured."""
    measured = {name: domain.measurements.get(name) for name in _NAMES}
    return {
        "name": domain.name,
        "phase": domain.phase,
        "status": domain.status,
        "status_declared": domain.status_declared,
        "base": domain.base,
        "adapter": domain.adapter_path,
        **{name: one.value if one is not None else None for name, one in measured.items()},
        "declared_quality": one.value if (one := domain.measurements.get("declared_quality")) else None,
        "measured": {name: _origin(one) for name, one in measured.items() if one is not None},
        "job": domain.job.id if domain.job is not None else None,
    }


def _origin(one: Measurement) -> dict[str, Any]:
    """How and when a figure was come by, for scripts."""
    return {"method": one.method, "measured_at": iso(one.measured_at), "n": one.n, "unit": one.unit}


def phase_json(phase: PhaseView, reader: "Reader") -> dict[str, Any]:
    """A phase for scripts."""
    from core.phases.overrides import overrides

    return {
        "number": phase.number,
        "state": phase.state,
        "current": phase.current,
        "next": phase.next_step,
        "quantization": phase.quantization,
        "compression_type": phase.compression_type,
        **checks_json(reader, phase),
        "repair": phase.repair,
        "target_size_mb": phase.target_size_mb,
        "quality_threshold": phase.quality_threshold,
        "quality_overrides": [{**one, "at": iso(one["at"])} for one in overrides(reader, phase)],
        "speed_priority": phase.speed_priority,
        "created_at": iso(phase.created_at),
        "bundle": phase.bundle_path,
        "bundle_bytes": phase.bundle_bytes,
        "unquantized_bytes": phase.base_bytes,
        "compression_ratio": ratio.value if (ratio := phase.compression_ratio) is not None else None,
        "measured": {"compression_ratio": _origin(ratio)} if ratio is not None else {},
        "domains": [domain_json(domain) for domain in phase.domains],
        "releases": [{**asdict(release), "created_at": iso(release.created_at)} for release in phase.releases],
    }


@click.command("list-phases")
@root_option
@json_option
def list_phases(root: str | None, as_json: bool) -> None:
    """Show all phases."""
    with true_reader(root) as reader:
        phases = reader.phases()
        if as_json:
            current = next((phase.number for phase in phases if phase.current), None)
            print_json({"current_phase": current, "phases": [phase_json(phase, reader) for phase in phases]})
            return
    if not phases:
        click.echo("no phases yet — tara quickstart, or tara create-phase 1 --domains …")
        return
    rows = [
        (
            f"{'>' if phase.current else ' '} {phase.number}",
            phase.state,
            f"{phase.complete}/{len(phase.domains)}",
            phase.quantization,
            size(phase.bundle_bytes),
            next((f"v{release.version}" for release in phase.releases if release.active), "-"),
            phase.next_step,
        )
        for phase in phases
    ]
    click.echo(table(("phase", "state", "complete", "type", "size", "release", "next"), rows, right=(2, 4)))


@click.command("show-phase")
@click.argument("phase_number", type=NUMBER)
@root_option
@json_option
def show_phase(phase_number: int, root: str | None, as_json: bool) -> None:
    """Show phase PHASE_NUMBER and its domains."""
    from core.phases.outcome import outcome, outcome_json

    with true_reader(root) as reader:
        phase = reader.phase(phase_number)
        if as_json:
            print_json({**phase_json(phase, reader), **outcome_json(reader, phase)})
            return
        merged, kept, came_of_it = merge_line(reader, phase), merge_table(reader, phase), outcome(reader, phase)
    click.echo(f"phase {phase.number}{' (current)' if phase.current else ''}: {phase.state}; next: {phase.next_step}")
    settings = [phase.quantization, phase.compression_type, *([merged] if merged else [])]
    settings += ["repaired"] if phase.repair else []
    if phase.quality_threshold is not None:
        settings.append(f"quality at least {phase.quality_threshold:g}")
    if phase.target_size_mb is not None:
        settings.append(f"target {phase.target_size_mb:g} MB")
    if phase.speed_priority:
        settings.append("speed first")
    click.echo(f"settings: {', '.join(settings)}")
    if phase.bundle_path is not None:
        click.echo(f"bundle: {phase.bundle_path}, {size(phase.bundle_bytes)}")
        ratio = phase.compression_ratio
        click.echo(clean(f"compression: {NOT_MEASURED if ratio is None else f'{ratio.value:.2f}, {ratio.method}'}"))
    for one in came_of_it:
        click.echo(clean(one) if isinstance(one, str) else figure_table(one))
    for release in phase.releases:
        mark = "current" if release.active else "kept"
        click.echo(f"release: version {release.version} in {release.target} ({mark}, {size(release.bytes)})")
    if phase.domains:
        click.echo()
        click.echo(domain_table(phase))
    if kept:
        click.echo(f"\n{kept}")


def domain_table(phase: PhaseView) -> str:
    """The phase's domains with what was measured of each."""
    rows = []
    for domain in phase.domains:
        found = domain.measurements
        quality = found.get("quality")
        rows.append(
            (
                domain.name,
                domain.status + (" (declared)" if domain.status_declared else ""),
                domain.base,
                figure(found.get("base_loss")),
                figure(found.get("tuned_loss")),
                figure(quality),
                f"{quality.method}, {iso(quality.measured_at)[:16]}" if quality else "",
            )
        )
    headers = ("domain", "status", "base", "base loss", "tuned loss", "quality", "how and when quality was measured")
    return table(headers, rows, right=(3, 4, 5))
