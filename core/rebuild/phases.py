"""Phases, domains and adapters from elsewhere, where the store's rows of them are gone: from what jobs were told."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session, col, select

from core.catalog import Catalog, load_catalog
from core.catalog.model import MERGE_METHODS, MERGES
from core.errors import TaraError
from core.files import MANIFEST, check_manifest, sha256_of
from core.phases.kinds import COMPRESSION_TYPES
from core.rebuild.folders import Attempt
from core.rebuild.replay import known_of
from core.store.engine import dump
from core.store.tables import Artifact, Domain, Fact, Job, Phase
from core.training.data import find_data
from core.workspace import Workspace

# Of no phase alone: they stay when a phase is cleaned up.
_SHARED = ("base", "convert", "imatrix", "quantize", "type-costs", "hybrid", "keep", "clean")


def specs_of(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """The specs of attempts, the newest first."""
    found = [one for one in attempts if one.spec is not None]
    return [one.spec for one in sorted(found, key=lambda one: one.started_at, reverse=True) if one.spec is not None]


def add_phases(
    session: Session, workspace: Workspace, specs: list[dict[str, Any]], domains: list[dict[str, Any]]
) -> list[str]:
    """The phases that jobs or domains belong to and that are not there yet. Returns a line on how each was made."""
    lines = []
    numbers = {spec["phase"] for spec in specs if _makes_a_phase(spec)} | {row["phase"] for row in domains}
    for number in sorted(numbers - {None}):
        if session.get(Phase, number) is not None:
            continue
        mine = [spec for spec in specs if spec.get("phase") == number]
        row = _snapshot(Phase, (known_of(spec).get("phase") for spec in mine))
        how = "as it was when a job of it last started" if row else "with usual settings; its own are lost"
        session.add(row or _phase(workspace, number, mine))
        lines.append(f"phase {number}: made anew, {how}")
    session.flush()
    return lines


def add_domains(session: Session, workspace: Workspace, specs: list[dict[str, Any]]) -> list[str]:
    """The domains that jobs were about and that are not there yet. Returns a line on how each was made."""
    catalog, lines = _catalog(workspace), []
    for spec in specs:
        for name in [spec["domain"]] if spec.get("domain") else list(_told(spec)):
            if not isinstance(name, str) or session.get(Domain, name) is not None:
                continue
            mine = [one for one in specs if one.get("domain") == name or name in _told(one)]
            known = (row for one in mine for row in known_of(one).get("domains") or [] if row.get("name") == name)
            row = _snapshot(Domain, known)
            how = "as it was when a job of it last started" if row else "from its jobs; what was declared is lost"
            row = row or _domain(session, workspace, catalog, name, mine)
            if row is None:
                lines.append(f"domain {name}: nothing says on which base it was trained")
                continue
            if row.phase is not None and session.get(Phase, row.phase) is None:
                row.phase = None
            session.add(row)
            session.flush()
            lines.append(f"domain {name}: made anew, {how}")
    return list(dict.fromkeys(lines))


def choose_current(session: Session, specs: list[dict[str, Any]]) -> None:
    """Which phase is the current one, where no fact says it: the one that was when the newest job started, else the
    first."""
    there = [str(number) for number in session.exec(select(Phase.number).order_by(col(Phase.number))).all()]
    fact = session.get(Fact, "current_phase")
    if fact is not None and fact.value in there:
        return
    known = [known_of(spec).get("current_phase") for spec in specs]
    chosen = next((value for value in known if value in there), there[0] if there else None)
    if chosen is not None:
        session.merge(Fact(name="current_phase", value=chosen))


def point_to_bundles(session: Session, numbers: Iterable[int]) -> None:
    """For each phase made anew without it: the key of what its last build made or was to make."""
    for number in numbers:
        phase = session.get(Phase, number)
        if phase is not None and phase.bundle_key is None:
            job = session.exec(
                select(Job).where(Job.phase == number, Job.kind == "package").order_by(col(Job.created_at).desc())
            ).first()
            phase.bundle_key = job.key if job is not None else None


def add_imported(session: Session, workspace: Workspace) -> list[str]:
    """The adapters from elsewhere that lie in the workspace. Returns those that cannot be recorded again: an older
    program did not write down under which key."""
    left = []
    for folder in sorted(workspace.artifacts.glob("adapter/*")):
        try:
            about = json.loads((folder / MANIFEST).read_text("utf-8"))
        except (OSError, ValueError):
            continue  # not finished, or no folder of an adapter
        if not isinstance(about, dict) or "imported_from" not in about:
            continue
        stored = workspace.relative(folder)
        if session.exec(select(Artifact).where(Artifact.path == stored)).first() is not None:
            continue
        try:
            check_manifest(folder, hashes=False)
            session.add(_imported(folder, stored, about))
        except (TaraError, KeyError, TypeError, OSError):
            left.append(stored)
    session.flush()
    return left


def _imported(folder: Path, stored: str, about: dict[str, Any]) -> Artifact:
    return Artifact(
        key=about["key"],
        kind="adapter",
        name=about["domain"],
        path=stored,
        sha256=sha256_of(folder / MANIFEST),
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
        meta=dump({"imported_from": about["imported_from"], "base": about["base"]}),
        domain=about["domain"],
        created_at=(folder / MANIFEST).stat().st_mtime,
    )


def _makes_a_phase(spec: dict[str, Any]) -> bool:
    return isinstance(spec.get("phase"), int) and (spec["kind"] not in _SHARED or bool(spec.get("domain")))


def _told(spec: dict[str, Any]) -> dict[str, Any]:
    """What a spec says of the domains it is about, by name."""
    found = spec["params"].get("domains")
    return found if isinstance(found, dict) else {}


def _snapshot(table: Any, rows: Iterable[Any]) -> Any:
    """The first of some rows that fits its table, as it was when a job started."""
    for row in rows:
        try:
            if row:
                return table(**table.model_validate(row).model_dump())
        except (ValidationError, TypeError):
            continue  # of another program, or garbled
    return None


def _phase(workspace: Workspace, number: int, specs: list[dict[str, Any]]) -> Phase:
    """A phase by what its jobs were told, where no snapshot of its settings was taken."""
    told = [spec["params"].get(name) for name in ("quantization", "type") for spec in specs]
    catalog = _catalog(workspace)
    usual = catalog.settings.quantization if catalog is not None else "Q4_K_M"
    chosen = next((one for one in told if isinstance(one, str)), usual)
    row = Phase(number=number, quantization=chosen, compression_type=COMPRESSION_TYPES[0])
    made = next((spec for spec in specs if spec["kind"] in ("quantize", "hybrid") and not spec.get("domain")), None)
    if made is not None and made["kind"] == "hybrid":
        target = made["params"].get("target_bytes")
        row.compression_type = "hybrid"
        row.target_size_mb = target / 1e6 if isinstance(target, int) else None
    taught = next((spec for spec in specs if spec["kind"] in ("heal", "distil")), None)
    if taught is not None:
        row.compression_type = "sparse" if taught["kind"] == "heal" else "distilled"
        limits: dict[str, Any] = next((spec["params"] for spec in specs if spec["kind"] == "prune"), {})
        target = limits.get("target_bytes")
        row.target_size_mb = target / 1e6 if isinstance(target, int) else None
    packaged = next((spec for spec in specs if spec["kind"] == "package"), None)
    row.repair = packaged is not None and packaged["params"].get("repair") is True
    merge = packaged["params"].get("merge") if packaged is not None else None
    if isinstance(merge, dict) and merge.get("mode") in MERGES:
        recipes = merge.get("recipes") or {}
        row.merge = merge["mode"]
        row.merge_method = next((one.get("method") for one in recipes.values()), MERGE_METHODS[0])
        row.merge_method = row.merge_method if row.merge == "unified" else None
    return row


def _domain(
    session: Session, workspace: Workspace, catalog: Catalog | None, name: str, specs: list[dict[str, Any]]
) -> Domain | None:
    """A domain by what its jobs were told, where no snapshot of its row was taken; None where its base is unknown."""
    told = [_told(spec)[name] for spec in specs if isinstance(_told(spec).get(name), dict)]
    bases = [one.get("base") for one in told] + [spec["params"].get("base_name") for spec in specs]
    mapped = catalog.mapping[name].current if catalog is not None and name in catalog.mapping else None
    base = next((one for one in bases if isinstance(one, str)), mapped)
    if base is None:
        return None
    phase = next((spec["phase"] for spec in specs if isinstance(spec.get("phase"), int)), None)
    order = next((list(_told(spec)) for spec in specs if name in _told(spec)), [name])
    domain = Domain(name=name, base=base, phase=phase, position=order.index(name))
    for spec in specs:
        root = Workspace(Path(spec["workspace"]))
        preset = spec["params"].get("preset")
        if spec["kind"] == "train" and spec.get("domain") == name and isinstance(preset, dict):
            usual = catalog.settings.preset if catalog is not None else None
            domain.preset = preset.get("name") if preset.get("name") != usual else None
            domain.data_path = _data_path(workspace, name, root, spec["inputs"].get("data"))
            break
        if spec["kind"] == "adapter-convert" and spec.get("domain") == name:
            stored = root.relative(Path(str(spec["inputs"].get("adapter"))))
            there = session.exec(select(Artifact).where(Artifact.path == stored)).first()
            if there is not None and "imported_from" in json.loads(there.meta):
                domain.adapter_path = stored
                break
    return domain


def _data_path(workspace: Workspace, name: str, root: Workspace, data: Any) -> str | None:
    """The data a domain was trained on, where that is not what would be found by its name."""
    if not isinstance(data, str):
        return None
    stored = root.relative(Path(data))
    try:
        usual = workspace.relative(find_data(workspace, name))
    except TaraError:
        usual = None
    return stored if stored != usual and workspace.absolute(stored).is_file() else None


def _catalog(workspace: Workspace) -> Catalog | None:
    try:
        return load_catalog(workspace)
    except TaraError:
        return None  # its faults are said elsewhere; without it the specs alone tell
