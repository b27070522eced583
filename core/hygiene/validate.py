"""One question for every kind of path: may this be used? Files are opened, not judged by their size or name."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from core.deploy.manifest import check_files, read_manifest
from core.errors import InvalidInput, TaraError
from core.files import MANIFEST, check_manifest
from core.hygiene.adapters import Adapter, check_structure, gguf_limits, read_adapter
from core.hygiene.findings import Finding, Report, make_report, shown
from core.hygiene.garbage import garbage_reason
from core.hygiene.gguf_check import check_bundle_fit, check_gguf
from core.hygiene.kinds import ADAPTER_WEIGHTS, BUNDLE_MANIFEST, Kind, bundles_in, content_kind, kind_of
from core.hygiene.model_check import check_model
from core.hygiene.reading import Malformed, read_object
from core.hygiene.tokenizer import check_tokenizer
from core.hygiene.weights import check_pickles

OVERSIZED_BYTES = 256 << 20  # no config, tokenizer or text of a model comes near it
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")


def validate_model(path: Path, *, deep: bool | None = None) -> Report:
    """Check an adapter, model, GGUF file, bundle, release or checkpoint.

    `deep` True reads every number, False windows of each tensor, None every number up to 1 GiB of weights. Raises
    InvalidInput when there is nothing at `path`.
    """
    kind = Kind.UNKNOWN
    findings: list[Finding] = []
    facts: dict[str, Any] = {}
    try:
        kind = kind_of(path)
        if kind is Kind.GGUF:
            findings, facts = check_gguf(path, path.name)
        elif kind is Kind.BUNDLE:
            findings, facts = _check_bundle(path)
        elif kind is Kind.RELEASE:
            findings, facts = _check_release(path)
        elif kind is Kind.UNKNOWN:
            findings = [_unknown(path)]
        else:
            content = content_kind(path)
            findings, facts = _check_folder(path, content, deep)
            if kind is Kind.CHECKPOINT:
                findings += _checkpoint_notes(content)
                facts["content"] = str(content)
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else ""
        findings = [
            *findings,
            Finding("error", "unreadable", where, f"{where} cannot be read: {error.strerror or error}"),
        ]
    facts.setdefault("bytes", path.stat().st_size if path.is_file() else sum(size for _, size in files_in(path)))
    return make_report(str(kind), path, findings, facts)


def files_in(folder: Path) -> Iterator[tuple[PurePath, int]]:
    """Regular files under a folder with their sizes in bytes, relative to it; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder), path.stat().st_size


def _check_folder(folder: Path, content: Kind, deep: bool | None) -> tuple[list[Finding], dict[str, Any]]:
    findings: list[Finding] = []
    facts: dict[str, Any] = {}
    if content is Kind.ADAPTER:
        adapter, findings = read_adapter(folder, deep=deep)
        if adapter is not None:
            findings = findings + check_structure(adapter) + gguf_limits(adapter, "warning")
            facts = _adapter_facts(adapter)
        findings = findings + check_tokenizer(folder, required=False)
        findings += check_pickles(folder, has_safetensors=(folder / ADAPTER_WEIGHTS).is_file())
    elif content is Kind.MODEL:
        findings, facts = check_model(folder, deep=deep)
    return findings + check_manifest_of(folder) + _check_sizes(folder) + _check_garbage(folder), facts


def _adapter_facts(adapter: Adapter) -> dict[str, Any]:
    return {
        "base": shown(adapter.base_name) if adapter.base_name else None,
        "r": adapter.config.get("r"),
        "lora_alpha": adapter.config.get("lora_alpha"),
        "modules": len(adapter.a),
        "parameters": sum(tensor.elements for tensor in adapter.weights.tensors.values()),
        "numbers_checked": adapter.weights.checked,
        "numbers": adapter.weights.total,
    }


def check_manifest_of(folder: Path) -> list[Finding]:
    """Whether a folder that carries a MANIFEST.json still is what it says, hashes included."""
    if not (folder / MANIFEST).is_file():
        return []
    try:
        check_manifest(folder)
    except InvalidInput as error:
        return [Finding("error", "manifest-differs", MANIFEST, shown(error.message, 400), error.hint)]
    except (TypeError, AttributeError, KeyError) as error:
        return [Finding("error", "manifest-unreadable", MANIFEST, f"{MANIFEST} is not one of TARA's: {shown(error)}")]
    return []


def _check_sizes(folder: Path) -> list[Finding]:
    findings = []
    for relative, size in files_in(folder):
        if size > OVERSIZED_BYTES and relative.suffix.lower() not in _WEIGHT_SUFFIXES and not garbage_reason(relative):
            message = f"{relative} is {size >> 20} MiB, far more than such a file needs"
            findings.append(Finding("warning", "oversized", str(relative), message))
        elif size == 0 and relative.suffix.lower() in (*_WEIGHT_SUFFIXES, ".json", ".model"):
            findings.append(Finding("warning", "empty-file", str(relative), f"{relative} is empty"))
    return findings


def _check_garbage(folder: Path) -> list[Finding]:
    garbage = [(relative, size) for relative, size in files_in(folder) if garbage_reason(relative)]
    if not garbage:
        return []
    total = sum(size for _, size in garbage)
    message = f"{len(garbage)} files ({total} bytes) are not part of the model, such as {shown(garbage[0][0])}"
    return [Finding("note", "garbage", "", message, "clean-model leaves them out")]


def _checkpoint_notes(content: Kind) -> list[Finding]:
    if content is Kind.UNKNOWN:
        return [Finding("error", "weights-missing", "", "this checkpoint holds no adapter and no model")]
    message = f"this is a training checkpoint of {'an adapter' if content is Kind.ADAPTER else 'a model'}"
    return [Finding("note", "checkpoint", "", message, "clean-model keeps only what is needed to use it")]


def _unknown(path: Path) -> Finding:
    message = "this is not an adapter, a model, a GGUF file, a bundle or a release"
    if path.is_dir():
        known = [
            f"{child.name} ({found})"
            for child in sorted(path.iterdir())
            if child.is_dir() and not child.is_symlink() and (found := kind_of(child)) is not Kind.UNKNOWN
        ]
        if known:
            message += f"; inside are {shown(', '.join(known[:3]))}"
    return Finding("error", "unknown-kind", "", message)


def _check_bundle(folder: Path) -> tuple[list[Finding], dict[str, Any]]:
    findings: list[Finding] = []
    try:
        check_files(folder, read_manifest(folder))
        read_object(folder / "routing.json")
    except TaraError as error:
        findings.append(Finding("error", "manifest-differs", BUNDLE_MANIFEST, error.message, error.hint))
    except Malformed as error:
        findings.append(Finding("error", "config-unreadable", "routing.json", f"routing.json {error}"))
    bases = sorted(folder.glob("base-*.gguf"))
    adapters = sorted((folder / "adapters").glob("*.gguf"))
    if not bases:
        findings.append(Finding("error", "file-missing", "", "the bundle holds no base model (base-*.gguf)"))
    for path in (*bases, *adapters):
        found, _ = check_gguf(path, str(path.relative_to(folder)), adapter=path in adapters)
        findings += found
    findings += check_bundle_fit(folder, bases, adapters)
    return findings, {"bases": [path.name for path in bases], "adapters": [path.stem for path in adapters]}


def _check_release(folder: Path) -> tuple[list[Finding], dict[str, Any]]:
    findings: list[Finding] = []
    names: list[str] = []
    for bundle in bundles_in(folder):
        names.append(bundle.name)
        found, _ = _check_bundle(bundle)
        findings += [
            Finding(
                one.severity,
                one.code,
                f"{bundle.name}/{one.file}".rstrip("/"),
                f"{bundle.name}: {one.message}",
                one.fix,
            )
            for one in found
        ]
    return findings, {"bundles": names}
