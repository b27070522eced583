"""All that is known of a phase, a domain or a job, as text: each figure with its method and date."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.store.views import DomainView, JobView, Measurement, PhaseView
from core.text import Table, columns_within, figure_columns, percent, size, table
from tara_tui import present
from tara_tui.selection import Selection
from tara_tui.widgets.transcript import Entry

if TYPE_CHECKING:
    from core.phases.checkpoints import Listed
    from core.phases.forecast import KindError
    from core.phases.outlook import Outlook

PLAN_TITLE = 30  # cells, so that a line fits the window of the smallest screen
TABLE_WIDTH = 68  # likewise
MEASUREMENTS = ("base_loss", "tuned_loss", "base_accuracy", "quality")


def describe(pane: str, selection: Selection, route: Sequence[str]) -> tuple[str, list[Entry]]:
    """The heading and the text for what is selected in a pane."""
    if pane == "phases" and selection.phase is not None:
        return f"Phase {selection.phase.number}", aligned(phase_lines(selection.phase))
    if pane == "domains" and selection.domain is not None:
        lines = aligned(domain_lines(selection.domain))
        if selection.domain.job is not None:
            lines += [Entry(""), Entry("Its job", "head"), *aligned(job_lines(selection.domain.job))]
        return f"Domain {present.one_line(selection.domain.name)}", lines
    if pane == "chat":
        return "The last routing", [Entry(line, indent=2) for line in route or ["nothing was asked yet"]]
    if selection.job is not None:
        return f"Job {selection.job.id}", aligned(job_lines(selection.job))
    return "Details", [Entry("nothing is selected")]


def aligned(lines: list[str]) -> list[Entry]:
    """Lines that begin with a name, wrapped under what follows it."""
    return [Entry(line, indent=14) for line in lines]


def phase_lines(phase: PhaseView) -> list[str]:
    """A phase, its settings and releases."""
    target = "none" if phase.target_size_mb is None else f"{phase.target_size_mb:g} MB"
    threshold = "none" if phase.quality_threshold is None else f"{phase.quality_threshold:g}"
    lines = [
        f"state         {phase.state}{', the current phase' if phase.current else ''}",
        f"next          {present.one_line(phase.next_step) or '-'}",
        f"domains       {phase.complete} of {len(phase.domains)} complete",
        f"quantization  {present.one_line(phase.quantization)}, {present.one_line(phase.compression_type)}",
        f"merge         {merge_of(phase)}{'; adapters repair the quantization' if phase.repair else ''}",
        f"target size   {target}; quality threshold {threshold}{'; speed first' if phase.speed_priority else ''}",
        f"made          {present.moment(phase.created_at)}",
        f"bundle        {present.one_line(phase.bundle_path) if phase.bundle_path else 'none verified yet'}",
        f"bundle size   {present.size(phase.bundle_bytes)}",
    ]
    if phase.smoke is not None:
        lines.append(measurement_line("smoke test", phase.smoke))
    if phase.bundle_path is not None:
        lines.append(measurement_line("compression", phase.compression_ratio))
    for release in phase.releases:
        role = "serves" if release.active else "old"
        lines.append(
            f"release v{release.version:<4} {role:<6} {present.size(release.bytes):>5}  "
            f"{present.moment(release.created_at)}  {present.one_line(release.target)}"
        )
    return lines


def merge_of(phase: PhaseView) -> str:
    """How the phase's domains reach its bundle."""
    if phase.merge != "unified":
        return "none: an adapter a domain" if phase.merge == "none" else "exact: a merged model a domain"
    margin = "the settings' margin" if phase.merge_margin is None else f"margin {phase.merge_margin:.2%}"
    return f"unified by {present.one_line(phase.merge_method or '-')}, {margin}"


def measurement_line(name: str, value: Measurement | None) -> str:
    """A figure with its origin."""
    if value is None:
        return f"{name:<13} {present.NOT_MEASURED}"
    count = f", n={value.n}" if value.n is not None else ""
    if value.unit == "B" and not isinstance(value.value, str):
        text = f"{size(value.value)}, {value.value:,.0f} bytes"
    else:
        text = f"{present.measured(value)} {present.one_line(value.unit)}".strip()
    origin = f"{present.one_line(value.method)}{count}, {present.moment(value.measured_at)}"
    return f"{present.one_line(name):<13} {text}  ({origin})"


def domain_lines(domain: DomainView) -> list[str]:
    """A domain with all its measurements."""
    lines = [
        f"status        {present.one_line(domain.status)}{' (declared by a person)' if domain.status_declared else ''}",
        f"base          {present.one_line(domain.base)}",
        f"adapter       {present.one_line(domain.adapter_path) if domain.adapter_path else 'none yet'}",
    ]
    names = [*MEASUREMENTS, *(name for name in domain.measurements if name not in MEASUREMENTS)]
    return lines + [measurement_line(name, domain.measurements.get(name)) for name in names]


def job_lines(job: JobView) -> list[str]:
    """A job with its figures and, where it failed, why and what to do."""
    unit = "" if job.unit in ("B", "") else f"{present.one_line(job.unit)} "  # bytes are said in the progress
    lines = [
        f"job           {job.id}, attempt {job.attempt}: {present.one_line(job.title)}",
        f"kind          {present.one_line(job.kind)}",
        f"state         {job.state}",
        f"progress      {present.progress(job)} {unit}{present.percent(job)}".rstrip(),
        f"rate          {present.rate(job)}"
        + (f", {present.span(job.eta_s)} left" if job.eta_s and job.active else ""),
        f"queued        {present.moment(job.created_at)}",
        f"started       {present.moment(job.started_at)}",
        f"ended         {present.moment(job.ended_at)}",
        f"waits for     {', '.join(map(str, job.depends_on)) or '-'}",
        f"folder        {present.one_line(job.run_dir) if job.run_dir else '-'}",
    ]
    if job.predicted_memory_bytes is not None:
        time = "time not known"
        if job.predicted_seconds is not None:
            time = f"{present.span(job.predicted_seconds)} ({present.one_line(job.predicted_by)})"
        lines.append(f"predicted     {present.size(job.predicted_memory_bytes)} of memory, {time}")
    if job.message:
        lines.append(f"says          {present.one_line(job.message)}")
    lines += [f"{present.one_line(name):<13} {present.figure(value)}" for name, value in sorted(job.metrics.items())]
    if job.error:
        lines.append(f"error         {present.one_line(job.error)}")
    if job.hint:
        lines.append(f"what to do    {present.one_line(job.hint)}")
    if job.exit_code is not None or job.exit_signal is not None:
        how = f"signal {job.exit_signal}" if job.exit_signal else f"status {job.exit_code}"
        lines.append(f"exit          {how}")
    return lines


def checkpoint_lines(listed: "Listed") -> list[str]:
    """A run, what would become of it, and under it its checkpoints with what is wrong with them."""
    run, now = listed.run, time.time()
    lines = [f"{run.name}: {listed.stands}, {present.size(run.bytes)}", f"  {present.one_line(listed.becomes)}"]
    for kept in listed.newest_first():
        lines.append(
            f"  step {kept.step:<6} {present.span(now - kept.at):>6} old {present.size(kept.bytes):>6}  "
            f"{present.one_line(listed.state_of(kept))}"
        )
    lines += [f"  set aside: {aside.path.name}, {present.one_line(aside.reason)}" for aside in run.aside]
    return lines


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """A table in columns, its head as a line that is not indented."""
    first, *rest = table((headers[0] or "figure", *headers[1:]), rows, right).splitlines()
    return [first, *(f" {line}" for line in rest)]


def outcome_lines(told: Sequence[str | Table], width: int = TABLE_WIDTH) -> list[str]:
    """What came of a phase: sentences indented, the heads of tables not."""
    lines = []
    for one in told:
        if isinstance(one, str):
            lines.append(f" {present.one_line(one)}")
        else:
            for heads, rows in columns_within(*one, width):
                lines += table_lines(heads, rows, figure_columns(rows))
    return lines


def error_lines(kinds: "Sequence[KindError]") -> list[str]:
    """How far predictions of finished jobs were off, a line a kind; none where nothing was predicted."""
    if not kinds:
        return []
    rows = [(one.kind, str(one.jobs), percent(one.memory, sign=""), percent(one.seconds, sign="")) for one in kinds]
    return ["", *table_lines(("median error so far", "jobs", "memory", "time"), rows, (1, 2, 3))]


def plan_lines(outlook: "Outlook", kinds: "Sequence[KindError]" = ()) -> list[str]:
    """What a plan will take: a line a job, their total, and why something does not fit with what would; and how far
    earlier predictions were off."""
    if not outlook.jobs:
        return [f"nothing to do: {outlook.there} jobs are done", *error_lines(kinds)]

    def line(title: str, memory: str, disk: str, time: str, word: str) -> str:
        name = title if len(title) <= PLAN_TITLE else f"{title[: PLAN_TITLE - 1]}…"
        return f" {name:<{PLAN_TITLE}} {memory:>6} {disk:>5} {time:>7}  {word}".rstrip()

    lines = [line("job", "memory", "disk", "time", "").replace(" job", "job ", 1)]
    for one in outlook.jobs:
        expected = one.expected
        time = "?" if expected.seconds is None else f"{present.span(expected.seconds)} {expected.seconds_by[0]}"
        memory, disk = f"{present.size(expected.memory)} {expected.memory_by[0]}", present.size(one.job.need.disk)
        lines.append(line(present.one_line(one.job.title), memory, disk, time, one.verdict.word))
    total = f"all {len(outlook.jobs)}, one after the other"
    time = f"{present.span(outlook.seconds)}{' +' if outlook.unknown else '  '}"
    word = "fits" if outlook.fits else "does not fit"
    lines.append(line(total, f"{present.size(outlook.memory)}  ", present.size(outlook.disk), time, word))
    lines += [f" {present.one_line(note)}" for note in outlook.notes()]
    lines.append(
        " e estimated, m measured, s scaled from jobs of the kind, p from a probe of this machine, ? not known"
    )
    if outlook.there:
        lines.append(f" done already and not listed: {outlook.there}")
    return lines + error_lines(kinds)
