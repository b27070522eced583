"""A clean copy of a model: without garbage, mended where the files themselves say how, checked, with a manifest.

The source is never written to. The copy grows under a temporary name and gets its own only when it has passed.
"""

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from core.errors import EnvironmentLacks, InvalidInput, NoRoom, Refused
from core.files import FULL, MANIFEST, discard, staging_beside, sync_tree, write_atomically, write_manifest
from core.hygiene.findings import Finding, Report, shown
from core.hygiene.fixes import Fixes, apply_fixes, find_fixes
from core.hygiene.garbage import garbage_reason
from core.hygiene.kinds import ADAPTER_WEIGHTS, Kind, content_kind, kind_of
from core.hygiene.validate import check_manifest_of, validate_model
from core.hygiene.weights import PICKLES, model_files

CLEAN_REPORT = "clean_report.json"
_BLOCK = 8 << 20
_CLEANABLE = (Kind.ADAPTER, Kind.MODEL, Kind.CHECKPOINT)
Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the file being copied


@dataclass(frozen=True)
class Entry:
    """A file of the source: its path relative to it, its bytes, and why it is left out ("" where it is kept)."""

    path: str
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class CleanPlan:
    """What cleaning would do. `bytes_after` counts what is copied, before fixes and the manifest are written."""

    source: Path
    output: Path
    kind: str
    kept: tuple[Entry, ...]
    dropped: tuple[Entry, ...]
    fixes: Fixes
    warnings: tuple[Finding, ...]  # about the source as a whole: it differs from its manifest, a link leads outside

    @property
    def bytes_before(self) -> int:
        """Bytes of all regular files of the source."""
        return self.bytes_after + sum(entry.bytes for entry in self.dropped)

    @property
    def bytes_after(self) -> int:
        """Bytes of the files that are copied."""
        return sum(entry.bytes for entry in self.kept)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "source": str(self.source),
            "output": str(self.output),
            "kind": self.kind,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "kept": [{"path": entry.path, "bytes": entry.bytes} for entry in self.kept],
            "dropped": [asdict(entry) for entry in self.dropped],
            "fixes": self.fixes.as_dict(),
            "warnings": [finding.as_dict() for finding in self.warnings],
        }


@dataclass(frozen=True)
class CleanResult:
    """What cleaning did: the plan with the fixes as applied, the copy's report, its manifest's hash, its bytes."""

    plan: CleanPlan
    fixes: Fixes
    report: Report
    sha256: str
    bytes: int


class NotClean(Refused):
    """The copy still has errors after cleaning, so it was not kept; `report` lists them."""

    def __init__(self, report: Report, source: Path) -> None:
        first = report.errors[0]
        more = f" (and {len(report.errors) - 1} more)" if len(report.errors) > 1 else ""
        super().__init__(
            f"{source} cannot be made usable: {first.message}{more}", f"see all of it: tara validate {source}"
        )
        self.report = report


def plan_clean(source: Path, output: Path) -> CleanPlan:
    """What `clean` would keep, drop and fix; reads only.

    Raises InvalidInput when `source` is not an adapter, model or checkpoint folder, Refused when `output` is not free.
    """
    kind = kind_of(source)
    if source.is_file() or kind not in _CLEANABLE:
        what = "a file" if source.is_file() else f"of the kind {kind}"
        raise InvalidInput(
            f"{source} is {what}, not an adapter's or model's folder",
            "give the folder with adapter_config.json or config.json",
        )
    source, output = source.resolve(), output.expanduser().resolve()
    _check_output(source, output)
    redundant = _has_safetensors(source)
    kept: list[Entry] = []
    dropped: list[Entry] = []
    warnings: list[Finding] = list(_source_manifest(source))
    for path in _walk(source):
        relative = path.relative_to(source)
        size, reason = _judge(path, relative, source, redundant)
        (dropped if reason else kept).append(Entry(str(relative), size, reason))
        if path.is_symlink() and reason.startswith("a link"):
            warnings.append(Finding("warning", "link-not-followed", str(relative), f"{shown(relative)} is {reason}"))
    return CleanPlan(source, output, str(kind), tuple(kept), tuple(dropped), find_fixes(source), tuple(warnings))


def _check_output(source: Path, output: Path) -> None:
    if output == source or source in output.parents:
        raise Refused(f"{output} lies inside the source {source}", "choose a folder outside it with --output-path")
    if output in source.parents:
        raise Refused(f"the source {source} lies inside {output}", "choose another folder with --output-path")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise Refused(f"{output} exists and is not empty", "choose a new folder with --output-path, or move it away")


def _walk(folder: Path) -> list[Path]:
    """Every entry below a folder that is not itself a folder, links included; linked folders are not entered."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder, followlinks=False):
        found += [Path(root) / name for name in names]
        found += [Path(root) / name for name in folders if (Path(root) / name).is_symlink()]
    return sorted(found)


def _judge(path: Path, relative: PurePath, source: Path, redundant_pickles: bool) -> tuple[int, str]:
    """A file's bytes and why it is left out, "" to keep it."""
    link = path.is_symlink()
    if link:
        try:
            target = path.resolve()
        except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
            return 0, "a link to nothing"
        if not target.is_relative_to(source):
            return 0, f"a link that leads outside the folder ({shown(os.readlink(path))})"
        if not target.is_file():
            return 0, "a link to a folder" if target.is_dir() else "a link to nothing"
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return 0, "not a regular file"
    reason = garbage_reason(relative)
    if reason is None and str(relative) in (MANIFEST, CLEAN_REPORT):
        reason = "written anew for the copy"
    if reason is None and redundant_pickles and path.suffix.lower() in PICKLES:
        reason = "a pickle, which can run code when opened; the weights are also there as safetensors"
    if reason is None and redundant_pickles and path.name == "pytorch_model.bin.index.json":
        reason = "the index of pickled weights; the weights are also there as safetensors"
    return (0 if link and reason else status.st_size), reason or ""


def _has_safetensors(source: Path) -> bool:
    if content_kind(source) is Kind.ADAPTER:
        return (source / ADAPTER_WEIGHTS).is_file()
    names, findings = model_files(source)
    return bool(names) and not any(finding.code == "shard-missing" for finding in findings)


def _source_manifest(source: Path) -> list[Finding]:
    """A source that differs from its own manifest was changed or damaged since: said, for the copy gets a new one."""
    return [
        Finding(
            "warning",
            "source-" + finding.code,
            MANIFEST,
            f"the source is not what its manifest says: {finding.message}",
        )
        for finding in check_manifest_of(source)
    ]


def clean(
    source: Path, output: Path, progress: Progress | None = None, about: dict[str, Any] | None = None
) -> CleanResult:
    """Make a clean copy of `source` at `output`; the source stays as it is.

    `about` is added to the copy's manifest. Raises what `plan_clean` does, NoRoom when the disk is too small
    and NotClean when errors remain after fixing, in which case nothing is left behind.
    """
    plan = plan_clean(source, output)
    output = plan.output
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < plan.bytes_after:
        raise NoRoom(
            f"the copy needs {plan.bytes_after} bytes, {output.parent} has {free} free",
            "free some space, or copy elsewhere",
        )
    staging = staging_beside(output)
    discard(staging)
    try:
        staging.mkdir()
        _copy(plan, staging, progress)
        fixes = find_fixes(staging)
        apply_fixes(staging, fixes)
        report = validate_model(staging)
        if not report.ok:
            raise NotClean(report, plan.source)
        text = json.dumps(_report(plan, fixes, report), indent=1, default=str)
        write_atomically(staging / CLEAN_REPORT, text + "\n")
        sha256, size = write_manifest(staging, {"kind": report.kind, "cleaned_from": str(plan.source), **(about or {})})
        sync_tree(staging)
        os.replace(staging, output)  # only an empty folder can be replaced by one, so nothing is overwritten
        sync_tree(output.parent, recurse=False)
    except OSError as error:
        raise (NoRoom if error.errno in FULL else EnvironmentLacks)(
            f"the copy to {output} failed: {error.filename or staging}: {error.strerror or error}",
            "check space and permissions",
        ) from error
    finally:
        discard(staging)
    return CleanResult(plan, fixes, _moved(report, output), sha256, size)


def _copy(plan: CleanPlan, staging: Path, progress: Progress | None) -> None:
    done, total = 0, plan.bytes_after
    for entry in plan.kept:
        target = staging / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        before = done
        with open((plan.source / entry.path).resolve(), "rb") as read, open(target, "xb") as write:
            while block := read.read(_BLOCK):
                write.write(block)
                done += len(block)
                if progress:
                    progress(done, total, entry.path)
        if done - before != entry.bytes:
            raise Refused(f"{plan.source / entry.path} changed while it was copied", "wait until nothing writes to it")


def _report(plan: CleanPlan, fixes: Fixes, report: Report) -> dict[str, Any]:
    return {
        **plan.as_dict(),
        "fixes": fixes.as_dict(),
        "validation": {key: value for key, value in report.as_dict().items() if key != "path"},
    }


def _moved(report: Report, output: Path) -> Report:
    return Report(report.kind, output, report.findings, report.facts)
