"""What is checked of a request before anything is changed: names, fractions, disk space."""

import math
import shutil
from typing import TYPE_CHECKING

from core.catalog import Catalog
from core.catalog.model import AS_IS, QUANTIZATIONS
from core.errors import EnvironmentLacks, InvalidInput, Refused
from core.phases.kinds import COMPRESSION_TYPES, NO_TARGET, TargetWish
from core.phases.planned import Compression, Plan
from core.runner.admission import most_disk
from core.store.views import PhaseView
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.store.tables import Phase  # takes longer to import than a command that only shows may


def check_quantization(name: str) -> str:
    """The type, where it is one of the four, or as-is."""
    if name not in (*QUANTIZATIONS, AS_IS):
        raise InvalidInput(f"unknown quantization {name}", f"one of {', '.join(QUANTIZATIONS)}, or {AS_IS}")
    return name


def check_as_is(quantization: str, technique: str, merge: str) -> None:
    """Refuse what cannot be asked for together with a base's own file: another file of it, or other weights in it."""
    if quantization != AS_IS:
        return
    if technique != "standard":
        raise Refused(f"{AS_IS} keeps a base's own file, {technique} makes another", "choose one of the two")
    if merge != "none":
        raise Refused(
            f"{AS_IS} keeps a base's own file, --merge {merge} writes other weights",
            f"choose --merge none, or one of {', '.join(QUANTIZATIONS)}",
        )


def check_compression(name: str) -> str:
    """The technique, where it is one of the four."""
    if name not in COMPRESSION_TYPES:
        raise InvalidInput(f"unknown compression type {name}", f"one of {', '.join(COMPRESSION_TYPES)}")
    return name


def check_target(megabytes: float) -> float:
    """The target size, where it is a size: megabytes of 10^6 bytes, above 0."""
    if not 0 < megabytes < math.inf:
        raise InvalidInput(f"a target size is a number of megabytes above 0, not {megabytes:g}")
    return megabytes


def target_of(wish: TargetWish, as_set: float | None) -> float | None:
    """The target size in megabytes that a wish comes to where a phase is set to `as_set`. Raises InvalidInput."""
    if wish is None:
        return as_set
    return None if wish == NO_TARGET else check_target(wish)


def compression_of(
    phase: "Phase | PhaseView",
    *,
    quantization: str | None = None,
    technique: str | None = None,
    target_size_mb: TargetWish = None,
    repair: bool | None = None,
) -> Compression:
    """How a phase's bases are made smaller: as it is set, but for what is given. A target size is a budget for a
    mixture of types, or for what is left of a base; a plain type has the size it has."""
    chosen = check_compression(technique or phase.compression_type)
    size = target_of(target_size_mb, phase.target_size_mb)
    limited = chosen != "standard" and size is not None
    return Compression(
        check_quantization(quantization or phase.quantization),
        chosen,
        round(size * 1e6) if limited and size is not None else None,
        phase.repair if repair is None else repair,
    )


def check_repair(repair: bool, merge: str, quantization: str) -> None:
    """Refuse a repair where there would be no adapters for it, or nothing that is rounded here."""
    if repair and quantization == AS_IS:
        raise InvalidInput(
            f"--repair gives back what quantization takes, and {AS_IS} quantizes nothing", "give one of the two"
        )
    if repair and merge != "none":
        raise InvalidInput(
            f"--repair goes into the domains' adapters, and --merge {merge} leaves none",
            "give --merge none, or --no-repair",
        )


def check_fraction(what: str, value: float) -> float:
    """The value, where it lies in 0..1."""
    if not 0.0 <= value <= 1.0:
        raise InvalidInput(f"{what} must be between 0 and 1, not {value:g}")
    return value


def check_disk(workspace: Workspace, catalog: Catalog, plan: Plan) -> None:
    """Refuse a plan whose files would not fit beside the reserve."""
    missing = plan.missing()
    needed = most_disk(job.need for job in missing)
    free = shutil.disk_usage(workspace.root).free
    reserve = catalog.settings.disk_reserve_mb * 1e6
    if missing and free - needed < reserve:
        raise EnvironmentLacks(
            f"this needs about {needed / 1e6:.0f} MB and leaves a reserve of {reserve / 1e6:.0f} MB; "
            f"{free / 1e6:.0f} MB are free",
            "free disk space; nothing was changed",
        )
