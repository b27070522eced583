"""The weight files of a folder: pickles refused, safetensors opened, shards complete, numbers finite."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from core.hygiene.findings import Finding, shown, some
from core.hygiene.garbage import garbage_reason
from core.hygiene.reading import Malformed, read_object
from core.hygiene.safetensors_file import TensorInfo, read_header, scan_tensor

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors$")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_FULL_BYTES = 1 << 30  # up to this much every number is read; above it, windows of each tensor
_SAMPLE = 1 << 16


@dataclass
class Weights:
    """The tensors found in a folder by name with the file that holds each, and what was wrong."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # tensor name -> file
    findings: list[Finding] = field(default_factory=list)
    zero: set[str] = field(default_factory=set)  # tensors in which only zeros were read
    checked: int = 0  # numbers read
    total: int = 0  # numbers there are

    @property
    def readable(self) -> bool:
        """Whether every weight file that should be there was opened without an error."""
        return bool(self.tensors) and not any(finding.severity == "error" for finding in self.findings)


def pickles_in(folder: Path) -> list[Path]:
    """Files in a folder (its subfolders too) whose names are those of pickles, relative to it."""
    return [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in PICKLES and path.is_file()
    ]


def check_pickles(folder: Path, *, has_safetensors: bool) -> list[Finding]:
    """Pickles are refused: opening one runs whatever code it holds."""
    findings: list[Finding] = []
    for relative in pickles_in(folder):
        if garbage_reason(PurePath(relative)):
            continue
        findings.append(
            Finding(
                "error",
                "unsafe-pickle",
                str(relative),
                f"{relative} is a pickle, which can run code when it is opened; TARA does not open it",
                "clean-model leaves it out: the weights are also there as safetensors" if has_safetensors else None,
            )
        )
    return findings


def read_weights(folder: Path, names: Iterable[str], *, deep: bool | None = None) -> Weights:
    """Open the named safetensors files of a folder and read their numbers.

    `deep` True reads all numbers, False only windows of each tensor, None all of them up to 1 GiB.
    """
    found = Weights()
    listed = list(names)
    size = sum((folder / name).stat().st_size for name in listed if (folder / name).is_file())
    limit = None if deep or (deep is None and size <= _FULL_BYTES) else _SAMPLE
    for name in listed:
        path = folder / name
        try:
            header = read_header(path)
        except Malformed as error:
            found.findings.append(Finding("error", "weights-unreadable", name, f"{name} {error}"))
            continue
        except OSError as error:
            found.findings.append(
                Finding("error", "weights-unreadable", name, f"{name} cannot be read: {error.strerror or error}")
            )
            continue
        double = found.tensors.keys() & header.keys()
        if double:
            found.findings.append(
                Finding("error", "tensor-twice", name, f"{some(sorted(double))} is also in another file")
            )
        found.tensors |= header
        found.files |= dict.fromkeys(header, path)
        _read_numbers(found, path, header, limit)
    return found


def _read_numbers(found: Weights, path: Path, header: dict[str, TensorInfo], limit: int | None) -> None:
    damaged: list[str] = []
    for tensor in header.values():
        scan = scan_tensor(path, tensor, limit)
        found.checked += scan.checked
        found.total += tensor.elements
        if scan.bad:
            damaged.append(f"{shown(tensor.name)} ({scan.bad} of {scan.checked})")
        if scan.checked and not scan.any_nonzero:
            found.zero.add(tensor.name)
    if damaged:
        found.findings.append(
            Finding("error", "not-finite", path.name, f"{path.name} holds NaN or infinite numbers in {some(damaged)}")
        )


def model_files(folder: Path) -> tuple[list[str], list[Finding]]:
    """The weight files a model folder should be read from, and what is wrong with the set (missing shards, index)."""
    shards = {path.name: match for path in folder.iterdir() if (match := SHARD.match(path.name))}
    index_path = folder / INDEX
    if (folder / "model.safetensors").is_file() and not index_path.is_file():
        findings = []
        if shards:
            findings.append(
                Finding(
                    "warning",
                    "weights-twice",
                    "",
                    "there is a model.safetensors and shards of one; the shards are ignored",
                )
            )
        return ["model.safetensors"], findings
    if index_path.is_file():
        return _indexed(folder, index_path, sorted(shards))
    if not shards:
        return [], [Finding("error", "weights-missing", "", "there are no weights (model.safetensors)")]
    totals = {match.group(2) for match in shards.values()}
    wanted = {f"model-{number:05d}-of-{total}.safetensors" for total in totals for number in range(1, int(total) + 1)}
    missing = sorted(wanted - shards.keys())
    if missing:
        return sorted(shards), [Finding("error", "shard-missing", "", f"{some(missing)} is missing")]
    index = Finding(
        "error", "index-missing", INDEX, f"there are {len(shards)} shards and no {INDEX}", "clean-model rebuilds it"
    )
    return sorted(shards), [index]


def _indexed(folder: Path, index_path: Path, shards: list[str]) -> tuple[list[str], list[Finding]]:
    try:
        weight_map = read_object(index_path).get("weight_map")
    except Malformed as error:
        return shards, [Finding("error", "index-unreadable", INDEX, f"{INDEX} {error}", "clean-model rebuilds it")]
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        return shards, [
            Finding("error", "index-unreadable", INDEX, f"{INDEX} has no weight_map", "clean-model rebuilds it")
        ]
    named = sorted(set(weight_map.values()))
    outside = [name for name in named if PurePath(name).name != name]
    if outside:
        return [], [
            Finding("error", "index-outside", INDEX, f"{INDEX} names files outside the folder: {some(outside)}")
        ]
    missing = [name for name in named if not (folder / name).is_file()]
    findings: list[Finding] = []
    if missing:
        findings.append(Finding("error", "shard-missing", INDEX, f"{some(missing)} is missing"))
    present = [name for name in named if name not in missing]
    findings += _index_against_headers(folder, weight_map, present)
    return present, findings


def _index_against_headers(folder: Path, weight_map: dict[str, str], present: list[str]) -> list[Finding]:
    real: dict[str, str] = {}
    for name in present:
        try:
            real |= dict.fromkeys(read_header(folder / name), name)
        except (Malformed, OSError):
            return []  # the file itself is reported where it is read
    wrong = [tensor for tensor, name in weight_map.items() if name in present and real.get(tensor) != name]
    unlisted = [tensor for tensor in real if tensor not in weight_map]
    if not wrong and not unlisted:
        return []
    message = f"{INDEX} and the shards disagree about {some(wrong + unlisted)}"
    return [Finding("error", "index-wrong", INDEX, message, "clean-model rebuilds it")]
