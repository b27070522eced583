"""The panes of rows: phases, domains of the selected phase, jobs."""

from core.store.views import DomainView, JobView, PhaseView, Snapshot
from tara_tui import present
from tara_tui.widgets.row_list import Cell, Column, Row, RowList

DECLARED = f"{present.DECLARED_MARK} declared, not measured"


class PhasesPane(RowList):
    """All phases; the one under the cursor is what phase keys act on."""

    HELP = (
        "Phases. '>' marks the current one. The state follows from jobs, artifacts and releases: planning, training, "
        "merging, compressing, deployed, failed. dom is complete/all domains, size that of the release or the newest "
        "bundle, rel the release that serves."
    )
    COLUMNS = (
        Column("  #", 3, right=True),
        Column("state", 11),
        Column("dom", 5),
        Column("quant", 6, drop=2),
        Column("size", 5, drop=3, right=True),
        Column("rel", 3, drop=1),
    )

    def __init__(self) -> None:
        super().__init__(self.COLUMNS, id="phases")
        self.empty = "reading the store ..."
        self.set_title("Phases")

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the phases of a snapshot."""
        self.empty = "no phase yet: n makes one"
        self.show([phase_row(phase) for phase in snapshot.phases])
        self.set_title(f"Phases{filter_note(self)}")
        self.refresh_when_empty()

    def refresh_when_empty(self) -> None:
        """Repaint the words of an empty list, when they changed."""
        if not self.rows:
            self.refresh()


def phase_row(phase: PhaseView) -> Row:
    """A phase as a row."""
    return Row(
        phase.number,
        (
            Cell(f"{'>' if phase.current else ''}{phase.number}"),
            Cell(phase.state, present.kind_of(phase.state)),
            Cell(f"{phase.complete}/{len(phase.domains)}"),
            Cell(present.one_line(phase.quantization)),
            Cell(present.size(present.phase_bytes(phase))),
            Cell(present.release(phase)),
        ),
    )


class DomainsPane(RowList):
    """The domains of the selected phase."""

    HELP = (
        "Domains of the selected phase. loss is the live training loss while a job runs, afterwards the held-out loss "
        "of the base model > of the tuned one. quality is the share of held-out tokens predicted right; 'not measured' "
        f"until it was evaluated. {present.DECLARED_MARK} marks what a person declared. Enter shows each figure's "
        "method and date."
    )
    COLUMNS = (
        Column("domain", 10, grow=True),
        Column("status", 12),
        Column("step", 9, drop=2, right=True),
        Column("loss", 9, drop=1, right=True),
        Column("quality", 12, right=True),
    )

    def __init__(self) -> None:
        super().__init__(self.COLUMNS, id="domains")
        self.set_title("Domains")

    def show_phase(self, phase: PhaseView | None) -> None:
        """Show the domains of a phase."""
        domains = phase.domains if phase else ()
        empty = "no domain yet: a adds one" if phase else ""
        if empty != self.empty:
            self.empty = empty
            self.refresh()
        self.show([domain_row(domain) for domain in domains])
        heading = f"Domains of phase {phase.number}" if phase else "Domains"
        declared = any(
            domain.status_declared or present.quality(domain).endswith(present.DECLARED_MARK) for domain in domains
        )
        self.set_title(heading + filter_note(self) + (f"  {DECLARED}" if declared else ""))


def domain_row(domain: DomainView) -> Row:
    """A domain as a row."""
    job = domain.job if domain.job is not None and domain.job.active else None
    share = f" {present.percent(job)}" if job is not None and job.state == "running" else ""
    loss = job.metrics.get("loss") if job is not None else None
    return Row(
        domain.name,
        (
            Cell(present.one_line(domain.name)),
            Cell(present.status(domain) + share, present.kind_of(domain.status)),
            Cell(present.progress(job) if job is not None else "-"),
            Cell(present.figure(loss) if loss is not None else present.losses(domain)),
            Cell(present.quality(domain), "" if "quality" in domain.measurements else "dim"),
        ),
    )


class JobsPane(RowList):
    """The newest jobs of all phases."""

    HELP = (
        "Jobs, newest first. They run outside the console: quitting leaves them running. age is how long a job has "
        "run, or took; eta what it will still take at its present rate. The log below is that of the job under the "
        "cursor."
    )
    COLUMNS = (
        Column("id", 4, right=True),
        Column("kind", 8, drop=3),
        Column("title", 20, grow=True),
        Column("state", 11),
        Column("progress", 9, right=True),
        Column("rate", 9, drop=2, right=True),
        Column("eta", 6, drop=1, right=True),
        Column("age", 6, right=True),
    )

    def __init__(self) -> None:
        super().__init__(self.COLUMNS, id="jobs")
        self.empty = "no job yet: b builds a phase, t trains a domain"
        self.set_title("Jobs")

    def show_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Show the jobs of a snapshot, with ages as of `now`."""
        self.show([job_row(job, now) for job in snapshot.jobs])
        self.set_title(f"Jobs  {job_counts(snapshot) or 'none at work'}{filter_note(self)}")


def job_row(job: JobView, now: float) -> Row:
    """A job as a row."""
    return Row(
        job.id,
        (
            Cell(str(job.id)),
            Cell(present.one_line(job.kind)),
            Cell(present.one_line(f"{job.title}: {job.waits_for}" if job.waits_for else job.title)),
            Cell(job.state, present.kind_of(job.state)),
            Cell(present.progress(job)),
            Cell(present.rate(job)),
            Cell(present.span(job.eta_s) if job.active else "-"),
            Cell(present.job_age(job, now)),
        ),
    )


def job_counts(snapshot: Snapshot) -> str:
    """How many jobs run and wait, '' where none does."""
    running = sum(job.state in ("running", "starting", "stopping") for job in snapshot.jobs)
    queued = sum(job.state == "queued" for job in snapshot.jobs)
    return ", ".join(f"{number} {word}" for number, word in ((running, "running"), (queued, "queued")) if number)


def filter_note(rows: RowList) -> str:
    """What a title says of a filter."""
    if not rows.filter:
        return ""
    return f"  /{present.one_line(rows.filter)} {len(rows.shown)} of {len(rows.rows)}"
