"""How long it took to make a model file: all jobs from the F16 file it is held against on, not only the last."""

from dataclasses import dataclass

from core.phases.lineage import Row, lineage_of
from core.store.reads import Reader

# What is made on the way from a model to a small file of it, of artifacts. Bases, trainings and merges are not: they
# are made whatever becomes of the file.
_ON_THE_WAY = ("gguf", "imatrix", "type-costs", "pruned", "teacher", "small")


@dataclass(frozen=True)
class BuildTime:
    """Seconds from start to end of the jobs `kinds`, one after the other."""

    seconds: float
    kinds: tuple[str, ...]

    @property
    def method(self) -> str:
        """How it was come by."""
        return f"from start to end of {', '.join(self.kinds)}"


def build_time(reader: Reader, artifact: Row) -> BuildTime | None:
    """How long the jobs took that made an artifact; None where it is not known of one of them."""
    made = [artifact, *(_before(reader, artifact) if artifact["kind"] == "gguf" else [])]
    ids = [row["job_id"] for row in made]
    jobs = {job.id: job for job in reader.jobs(ids=[one for one in ids if one is not None])} if any(ids) else {}
    seconds, kinds = 0.0, []
    for one in sorted({one for one in ids if one is not None}):
        job = jobs.get(one)
        if job is None or job.started_at is None or job.ended_at is None:
            return None
        seconds += job.ended_at - job.started_at
        kinds.append(job.kind)
    return BuildTime(seconds, tuple(kinds)) if kinds and None not in ids else None


def _before(reader: Reader, artifact: Row) -> list[Row]:
    """What a model file was made of, back to the F16 file that it is held against."""
    line = lineage_of(reader, artifact)
    whole = line.reference["id"] if line is not None else None
    found: dict[int, Row] = {}
    to_look_at = [artifact]
    while to_look_at:
        for row in reader.parents(to_look_at.pop()["id"]):
            if row["kind"] in _ON_THE_WAY and row["id"] not in found and row["id"] != whole:
                found[row["id"]] = row
                to_look_at.append(row)
    return list(found.values())
