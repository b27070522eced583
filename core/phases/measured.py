"""What was made, found by the names people have for it, and what is known of each: its header and its measurements."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidInput, Refused
from core.gguf.inspect import inspect_gguf
from core.phases.built_in import build_time
from core.phases.lineage import lineage_of
from core.store.reads import Reader
from core.store.views import Measurement, PhaseView

Artifact = dict[str, Any]  # a row of Reader.artifacts; of a file that is not recorded, `id` and what follows are None
Figures = dict[tuple[str, str], Measurement]  # by name and subject: a domain, or "" for the whole

_LISTED = 12
_KEY = re.compile(r"-[0-9a-f]{8}$")
_REPORT_OF_A_REFERENCE = {
    "reference_perplexity": "perplexity",
    "reference_held_out_loss": "held_out_loss",
}  # what a report says of the file that was the measure

# What a report says of two files together: of a smaller model it counts only where the other is the whole one's.
_BESIDE = (
    "kl_mean", "kl_se", "kl_bound", "kl_p99", "same_top", "same_top_se", "perplexity_change", "perplexity_change_se",
    *_REPORT_OF_A_REFERENCE,
)  # fmt: skip
_CHECKED = {"small_loss": "held_out_loss", "verdict": "verdict"}  # what is known of a smaller model's file by its check


def find_artifacts(reader: Reader, name: str) -> list[Artifact]:
    """The artifacts a name stands for: a number, a path, a file's name, or `phase:N`, the GGUF models of a phase's
    bundle. A GGUF file that is not recorded counts too. Raises InvalidInput naming what there is, or Refused."""
    if name.startswith("phase:"):
        return _of_phase(reader, name.removeprefix("phase:"))
    recorded = reader.artifacts()
    if name.isdigit():
        found = [row for row in recorded if row["id"] == int(name)]
    else:
        path = Path(name).expanduser()
        wanted = reader.workspace.relative(path.absolute().resolve())
        found = [row for row in recorded if row["path"] in (wanted, name)]
        found = found or [row for row in recorded if name in (Path(row["path"]).name, Path(row["path"]).stem)]
        if not found and path.is_file() and path.suffix == ".gguf":
            return [_unrecorded(path.absolute())]
    if not found:
        raise InvalidInput(f"there is no artifact {name} ({_listing(recorded)})", "give a number, a path or phase:N")
    return found[:1]


def artifacts_of(reader: Reader, names: Iterable[str], beside: Iterable[Artifact] = ()) -> list[Artifact]:
    """Those `beside`, and what each name stands for, each once and in order. Raises as `find_artifacts`."""
    found = {one["path"]: one for one in beside}
    for name in names:
        for one in find_artifacts(reader, name):
            found.setdefault(one["path"], one)
    return list(found.values())


def _of_phase(reader: Reader, number: str) -> list[Artifact]:
    if not number.isdigit():
        raise InvalidInput(f"phase:{number} names no phase", "write phase:1")
    phase = reader.phase(int(number))
    bundle = next((row for row in reader.artifacts(kind="bundle") if row["path"] == phase.bundle_path), None)
    if bundle is None:
        raise Refused(f"phase {number} has no bundle", f"tara build-phase {number}")
    return sorted((row for row in reader.parents(bundle["id"]) if row["kind"] == "gguf"), key=lambda row: row["id"])


def models_of_phase(reader: Reader, number: int) -> list[Artifact]:
    """The GGUF models made for a phase, and those of its bundle, whose files are there; in the order they were made.
    Raises Refused where there is none."""
    bundled = {row["path"] for row in _of_phase(reader, str(number))} if reader.phase(number).bundle_path else set()
    found = [
        row
        for row in reader.artifacts(kind="gguf")
        if (row["phase"] == number or row["path"] in bundled) and reader.workspace.absolute(row["path"]).is_file()
    ]
    if not found:
        raise Refused(f"phase {number} has no model yet", f"tara build-phase {number}")
    return sorted({row["path"]: row for row in found}.values(), key=lambda row: row["id"])


def compressed(reader: Reader, phase: PhaseView) -> list[dict[str, Any]]:
    """Of each base of a phase's bundle that a technique was tried on: its name, what was kept and why, and the file's
    type, tensors by type and bytes, as its job recorded them. Of a smaller model also `sizes` of it and of plain files
    beside it, `rows`, a domain each, with losses and accuracies by file, and `taught`, see `taught_of`."""
    if phase.bundle_path is None:
        return []
    found = []
    for row in _of_phase(reader, str(phase.number)):
        check = _report(reader, "gguf_sha256", row["sha256"], kind="small-check")
        told: dict[str, Any] = {}
        if check is not None:
            meta = check["meta"]
            told = {"compression": meta["technique"], "kept": meta["technique"], "why": meta["why"]}
            told |= {name: meta[name] for name in ("verdict", "peer", "sizes", "rows")}
            told["taught"] = taught_of(reader, row)
        elif row["meta"].get("compression"):
            told = {name: row["meta"][name] for name in ("compression", "kept", "why")}
        if told:
            about = {name: row["meta"].get(name) for name in ("file_type", "types")}
            found.append({"base": row["name"], "bytes": row["bytes"], **told, **about})
    return found


def taught_of(reader: Reader, artifact: Artifact) -> dict[str, Any] | None:
    """Held-out losses of the smaller model of a file before and after it was taught, nats a token, and what they say
    (`says`); of a distilled one also of the same student without its teacher, and whether that helped
    (`teacher_helped`). None where it is not known."""
    line = lineage_of(reader, artifact)
    if line is None or not line.smaller:
        return None
    found = {one.name: one for one in reader.measurements(line.model["id"])}
    known = [name for name in ("pruned_loss", "healed_loss", "distilled_loss", "control_loss") if name in found]
    losses: dict[str, Any] = {name: found[name].value for name in known}
    if "teacher_helped" in found:
        return {
            **losses,
            "teacher_helped": found["teacher_helped"].value == "yes",
            "says": found["teacher_helped"].method,
        }
    if "healed_loss" not in losses:
        return None
    says = f"healed: held-out loss {losses['pruned_loss']:.4f} before, {losses['healed_loss']:.4f} after"
    return {**losses, "says": says}


def repaired(reader: Reader, phase: PhaseView) -> list[dict[str, Any]]:
    """Of each adapter of a phase's bundle that a repair was tried on: its domain, whether it is kept, its rank and why,
    as its job recorded them."""
    bundle = next((row for row in reader.artifacts(kind="bundle") if row["path"] == phase.bundle_path), None)
    if bundle is None:
        return []
    rows = (row for row in reader.parents(bundle["id"]) if row["kind"] == "gguf-adapter" and "repaired" in row["meta"])
    return [
        {"domain": row["domain"], **{name: row["meta"][name] for name in ("repaired", "repair_rank", "why")}}
        for row in sorted(rows, key=lambda row: row["id"])
    ]


def _unrecorded(path: Path) -> Artifact:
    empty = dict.fromkeys(("id", "key", "sha256", "job_id", "phase", "domain", "created_at"))
    return {**empty, "kind": "gguf", "name": path.stem, "path": str(path), "bytes": path.stat().st_size, "meta": {}}


def _listing(recorded: list[Artifact]) -> str:
    shown = [row for row in recorded if row["kind"] == "gguf"] or recorded
    names = [f"{row['id']} {Path(row['path']).name}" for row in shown[:_LISTED]]
    return ("there are " + ", ".join(names) + (", …" if len(shown) > _LISTED else "")) if names else "there is none yet"


def label(artifact: Mapping[str, Any], *, with_key: bool = False) -> str:
    """What an artifact is called: its file's name, without the key where that says enough."""
    path = Path(artifact["path"])
    name = path.stem if path.suffix in (".gguf", ".json") else path.name
    return name if with_key else _KEY.sub("", name)


def newest_report(reader: Reader, artifact: Mapping[str, Any]) -> Artifact | None:
    """The newest report on a file, found by its hash."""
    return _report(reader, "gguf_sha256", artifact["sha256"])


def figures(reader: Reader, artifact: Artifact) -> Figures:
    """What is known of an artifact: its header where it is a GGUF file, what its own job measured, and the newest
    report on it, with the name of the F16 file that was its measure (`reference`). A file that was only the measure of
    another has the perplexity and losses of that report. Of a smaller model what a report says beside an F16 file that
    is pruned itself is left out: it is no measure of what pruning took."""
    found: Figures = {}

    def take(measurements: list[Measurement], renamed: Mapping[str, str] | None = None) -> None:
        for one in measurements:
            name = one.name if renamed is None else renamed.get(one.name)
            if name is not None:
                found[name, one.subject] = one

    path = reader.workspace.absolute(artifact["path"])
    if artifact["kind"] == "gguf" and path.is_file():
        take(_header(path))
    if artifact["id"] is None:
        return found
    take(reader.measurements(artifact["id"]))
    check = _report(reader, "gguf_sha256", artifact["sha256"], kind="small-check")
    if check is not None:
        take(reader.measurements(check["id"]), _CHECKED)
    as_reference = _report(reader, "reference_sha256", artifact["sha256"])
    if as_reference is not None:
        take(reader.measurements(as_reference["id"]), _REPORT_OF_A_REFERENCE)
    left = _report(reader, "gguf_sha256", artifact["sha256"], kind="kept-change")
    if left is not None:
        take(reader.measurements(left["id"]))
    take(_reported(reader, artifact))
    found.pop(("build_s", ""), None)  # of a report: what its caller knew of when it was asked for
    time = build_time(reader, artifact)
    if time is not None:
        take([Measurement("build_s", time.seconds, time.method, artifact["created_at"], "s")])
    return found


def _reported(reader: Reader, artifact: Artifact) -> list[Measurement]:
    """The figures of the newest report on a file, as far as they can stand beside those of other files."""
    reports = [row for row in reader.artifacts(kind="report") if row["meta"].get("gguf_sha256") == artifact["sha256"]]
    if not reports or artifact["sha256"] is None:
        return []
    line = lineage_of(reader, artifact)
    if line is None or not line.smaller:
        newest, whole = reports[0], True
    else:
        wanted = line.reference["sha256"]
        beside = next((row for row in reports if row["meta"].get("reference_sha256") == wanted), None)
        newest, whole = (reports[0], False) if beside is None else (beside, True)
    taken = reader.measurements(newest["id"])
    if not whole:
        return [one for one in taken if one.name not in _BESIDE]
    against = _reference_of(reader, newest)
    return [*taken, against] if against is not None else taken


def _reference_of(reader: Reader, report: Artifact) -> Measurement | None:
    """The name of the F16 file that a report holds its file against; None where it is not recorded."""
    wanted = report["meta"].get("reference_sha256")
    row = next((row for row in reader.artifacts(kind="gguf") if wanted and row["sha256"] == wanted), None)
    if row is None:
        return None
    return Measurement("reference", label(row), f"the F16 file of the report, {row['path']}", report["created_at"])


def kept_changes(reader: Reader, phase: PhaseView) -> list[dict[str, Any]]:
    """Of each domain that is merged into a file of a phase's bundle: how much of its adapter is left after rounding, as
    shares (`core.gguf.kept_change`). None where it was not measured yet."""
    found = []
    for row in _of_phase(reader, str(phase.number)) if phase.bundle_path is not None else []:
        report = _report(reader, "gguf_sha256", row["sha256"], kind="kept-change")
        rounded = any(parent["kind"] == "gguf" for parent in reader.parents(row["id"]))
        if rounded and row["domain"] is not None:
            shares = {name: report["meta"].get(name) if report else None for name in ("share", "error", "moved")}
            found.append({"domain": row["domain"], "file_type": row["meta"].get("file_type"), **shares})
    return found


@dataclass(frozen=True)
class SizeCheck:
    """A quantized file: what was predicted of its bytes before it was made, what it has, and the error as a share."""

    artifact: Artifact
    predicted: int
    bytes: int

    @property
    def error(self) -> float:
        """Real over predicted, less one."""
        return self.bytes / self.predicted - 1


def size_checks(reader: Reader, *, phase: int | None = None) -> list[SizeCheck]:
    """The quantized files whose size was predicted, newest first. Of a mixture of types that was not kept, the mixture
    is what was predicted."""
    found = []
    for row in reader.artifacts(kind="gguf"):
        values = (
            {one.name: one.value for one in reader.measurements(row["id"])} if phase in (None, row["phase"]) else {}
        )
        real = values.get("mixture_bytes", values.get("bytes"))
        if values.get("predicted_bytes") and real:
            found.append(SizeCheck(row, int(values["predicted_bytes"]), int(real)))
    return found


def _report(reader: Reader, field: str, sha256: str | None, *, kind: str = "report") -> Artifact | None:
    rows = reader.artifacts(kind=kind) if sha256 else []
    return next((row for row in rows if row["meta"].get(field) == sha256), None)


def _header(path: Path) -> list[Measurement]:
    info, at = inspect_gguf(path), path.stat().st_mtime
    how = "from its header"
    types = [Measurement("tensors", count, how, at, subject=kind) for kind, count in info.types.items()]
    return [
        Measurement("bytes", info.bytes, "size of the file", at, "B"),
        Measurement("bits_per_weight", info.bits_per_weight, f"tensor bits over weights, {how}", at),
        Measurement("fallback_tensors", info.fallback_tensors, how, at, n=info.weight_tensors),
        *types,
    ]
