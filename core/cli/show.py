"""Commands that show phases."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import NUMBER, figure, json_option, print_json, root_option, true_reader
from core.cli.merging import checks_json, merge_line, merge_table
from core.store.views import DomainView, Measurement, PhaseView
from core.text import NOT_MEASURED, clean, size, table

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


def override_line(one: dict[str, Any]) -> str:
    """A recorded override of the quality threshold, in a line."""
    threshold = "" if one["threshold"] is None else f" {one['threshold']:g}"
    what = f"{one['for']} below the quality threshold{threshold}, {iso(one['at'])[:16]}: {one['reason']}"
    return what + (f" ({'; '.join(one['below'])})" if one["below"] else " (given before anything was measured)")


def iso(at: float) -> str:
    """A moment in local time with its offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))


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
    from core.phases.measured import compressed, kept_changes, repaired
    from core.phases.overrides import overrides
    from core.phases.smoked import smoked
    from core.phases.verified import answers_line, verified_phase

    with true_reader(root) as reader:
        phase = reader.phase(phase_number)
        made, repairs, left = compressed(reader, phase), repaired(reader, phase), kept_changes(reader, phase)
        asked, verified = smoked(reader, phase), verified_phase(reader, phase)
        if as_json:
            told = {"compressed": made, "repaired": repairs, "kept_changes": left, "smoke": asked}
            told["verification"] = verified
            print_json({**phase_json(phase, reader), **told})
            return
        merged, kept = merge_line(reader, phase), merge_table(reader, phase)
        overridden = overrides(reader, phase)
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
        click.echo(clean(answers_line(verified)))
    if phase.bundle_path is not None or asked is not None:
        click.echo(clean(f"smoke test: {NOT_MEASURED}" if asked is None else smoke_line(asked)))
    for one in made:
        click.echo(clean(f"base {one['base']}: {one['why']}"))
        if "rows" in one:
            click.echo(loss_table(one))
    for one in repairs:
        click.echo(clean(f"adapter {one['domain']}: {one['why']}"))
    for one in overridden:
        click.echo(clean(override_line(one)))
    for one in left:
        click.echo(clean(_left(one)))
    for release in phase.releases:
        mark = "current" if release.active else "kept"
        click.echo(f"release: version {release.version} in {release.target} ({mark}, {size(release.bytes)})")
    if phase.domains:
        click.echo()
        click.echo(domain_table(phase))
    if kept:
        click.echo(f"\n{kept}")


def smoke_line(report: Mapping[str, Any]) -> str:
    """A report of `tara smoke` in a line."""
    return f"smoke test: {report['line']} ({iso(report['at'])[:16]})"


def loss_table(small: Mapping[str, Any]) -> str:
    """What a smaller model's file loses of its domains, beside plain files of the whole model."""
    names = list(small["sizes"])
    headers = ("held-out loss", *(f"{name} {size(small['sizes'][name])}" for name in names))
    rows = [(row["domain"], *(f"{row['loss'][name]:.3f}" for name in names)) for row in small["rows"]]
    return table(headers, rows, right=range(1, len(headers)))


def _left(one: dict[str, Any]) -> str:
    """How much of a merged domain's adapter rounding left, as a line."""
    if one["share"] is None:
        return f"merged {one['domain']}: what {one['file_type']} left of its adapter is {NOT_MEASURED}"
    return (
        f"merged {one['domain']}: {one['file_type']} left {one['share']:.1%} of its adapter's change, "
        f"with an error of {one['error']:.1%} of it"
    )


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
