"""GGUF files: whole, of the type they name, complete, and for adapters fitting their base."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.gguf.header import TensorInfo as GgufTensor
from core.gguf.header import read_header
from core.gguf.inspect import FILE_TYPES, UNKNOWN_FILE_TYPE, GgufInfo, inspect_gguf
from core.hygiene.findings import Finding, shown, some
from core.hygiene.safetensors_file import TensorInfo, scan_tensor

_BLOCK = re.compile(r"blk\.(\d+)\.")
_PAIR = re.compile(r"(?P<weight>.+)\.lora_(?P<side>[ab])$")
_FLOATS = ("F32", "F16", "BF16", "F64")
_SCAN_LIMIT = 1 << 16
_CALLED = {"adapter": "an adapter", "imatrix": "an importance matrix", "model": "a model"}
_STATISTIC = (".in_sum2", ".counts")


def check_gguf(path: Path, name: str, *, adapter: bool | None = None) -> tuple[list[Finding], dict[str, Any]]:
    """Check one GGUF file, called `name` in the findings; `adapter` says what it should be, None accepts both.

    Plain numbers are looked at for NaN and infinity (windows of each tensor); quantized blocks are not decoded.
    """
    try:
        info = inspect_gguf(path)
    except InvalidInput as error:
        return [Finding("error", "gguf-unreadable", name, shown(error.message, 400))], {}
    findings = _extents(path, name) + _numbers(path, name, info)
    if adapter is not None and (info.kind == "adapter") is not adapter:
        message = f"{name} is {_CALLED[info.kind]}, not what belongs here"
        findings.append(Finding("error", "gguf-kind", name, message))
    findings += {"adapter": _adapter, "imatrix": _imatrix}.get(info.kind, _model)(name, info)
    facts = {
        "gguf": info.kind,
        "architecture": info.architecture,
        "file_type": info.file_type,
        "types": info.types,
        "parameters": info.parameters,
        "bits_per_weight": round(info.bits_per_weight, 3),
        "bytes": info.bytes,
    }
    return findings, facts


def _extents(path: Path, name: str) -> list[Finding]:
    header = read_header(path)
    findings: list[Finding] = []
    size = path.stat().st_size
    position = 0
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < position:
            message = f"tensor {shown(tensor.name)} lies on top of another one"
            findings.append(Finding("error", "gguf-overlap", name, message))
        position = tensor.offset + tensor.bytes
    extra = size - (header.data_start + position)
    if extra >= header.alignment:
        message = f"{name} is {extra} bytes longer than its tensors need"
        findings.append(Finding("warning", "gguf-oversized", name, message))
    return findings


def _numbers(path: Path, name: str, info: GgufInfo) -> list[Finding]:
    start = read_header(path).data_start
    damaged = []
    for tensor in info.tensors:
        if tensor.type in _FLOATS:
            begin = start + tensor.offset
            plain = TensorInfo(tensor.name, tensor.type, tensor.shape, begin, begin + tensor.bytes)
            if scan_tensor(path, plain, _SCAN_LIMIT).bad:
                damaged.append(tensor.name)
    if not damaged:
        return []
    return [Finding("error", "not-finite", name, f"{name} holds NaN or infinite numbers in {some(damaged)}")]


def _imatrix(name: str, info: GgufInfo) -> list[Finding]:
    """Every statistic is a sum and a count."""
    held = [{one.name.removesuffix(end) for one in info.tensors if one.name.endswith(end)} for end in _STATISTIC]
    single = held[0] ^ held[1]
    if single or not held[0]:
        what = f"of {some(sorted(single))} only sum or count" if single else "no statistics"
        return [Finding("error", "imatrix-incomplete", name, f"{name} has {what}")]
    return []


def _model(name: str, info: GgufInfo) -> list[Finding]:
    findings: list[Finding] = []
    blocks = info.metadata.get(f"{info.architecture}.block_count")
    names = {tensor.name for tensor in info.tensors}
    if not isinstance(blocks, int):
        message = f"{name} does not say how many layers it has ({info.architecture}.block_count)"
        findings.append(Finding("error", "gguf-metadata", name, message))
    else:
        have = Counter(int(match[1]) for tensor in names if (match := _BLOCK.match(tensor)))
        missing = [index for index in range(min(blocks, 1 << 16)) if index not in have]
        if missing:
            findings.append(
                Finding("error", "gguf-layers", name, f"{name} should have {blocks} layers; missing: {some(missing)}")
            )
    if "token_embd.weight" not in names:
        findings.append(Finding("error", "gguf-embedding", name, f"{name} has no token embedding"))
    if info.chat_template is None:
        findings.append(Finding("warning", "chat-template-missing", name, f"{name} has no chat template"))
    if info.file_type == UNKNOWN_FILE_TYPE:
        findings.append(Finding("note", "gguf-file-type", name, f"{name} does not name its quantization"))
    else:
        findings += _file_type(name, info)
    return findings


def _file_type(name: str, info: GgufInfo) -> list[Finding]:
    main = re.sub(r"(_[SML]|_MOE|_X+[SL]?)$", "", info.file_type)
    if info.file_type not in FILE_TYPES.values() or main in info.types or info.file_type in info.types:
        return []
    types = ", ".join(f"{count} {kind}" for kind, count in info.types.items())
    message = f"{name} is called {info.file_type} but holds no {main} tensors ({types})"
    if info.fallback_tensors:
        return [Finding("note", "gguf-fallback", name, f"{message}: its rows do not fit that type's blocks")]
    return [Finding("warning", "gguf-file-type", name, message)]


def _adapter(name: str, info: GgufInfo) -> list[Finding]:
    findings: list[Finding] = []
    if info.metadata.get("adapter.type") != "lora":
        findings.append(Finding("error", "gguf-metadata", name, f"{name} is not a LoRA adapter"))
    alpha = info.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, (int, float)) or not alpha:
        message = f"{name} gives alpha as {shown(alpha)}: without it the scale is wrong"
        findings.append(Finding("error", "gguf-metadata", name, message))
    pairs, alone = _pairs(info)
    if alone:
        findings.append(Finding("error", "pair-incomplete", name, f"{name} has half a pair for {some(alone)}"))
    if not pairs:
        findings.append(Finding("error", "no-lora-tensors", name, f"{name} holds no lora_a and lora_b tensors"))
    wrong = [
        weight for weight, (a, b) in pairs.items() if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[1] != b.shape[0]
    ]
    if wrong:
        findings.append(Finding("error", "shape-wrong", name, f"{name}: ranks differ within {some(wrong)}"))
    return findings


def _pairs(info: GgufInfo) -> tuple[dict[str, tuple[GgufTensor, GgufTensor]], list[str]]:
    sides: dict[str, dict[str, GgufTensor]] = {"a": {}, "b": {}}
    for tensor in info.tensors:
        if match := _PAIR.fullmatch(tensor.name):
            sides[match["side"]][match["weight"]] = tensor
    both = sides["a"].keys() & sides["b"].keys()
    return {weight: (sides["a"][weight], sides["b"][weight]) for weight in sorted(both)}, sorted(
        sides["a"].keys() ^ sides["b"].keys()
    )


def fits_base(adapter: GgufInfo, base: GgufInfo) -> str | None:
    """Why a GGUF adapter cannot go onto a GGUF base (another architecture, an absent tensor, other sizes), or None.

    In GGUF order A is [in, r], B is [r, out] and the weight [in, out].
    """
    if adapter.architecture != base.architecture:
        return f"it is made for {shown(adapter.architecture)}, the base is {shown(base.architecture)}"
    weights = {tensor.name: tensor.shape for tensor in base.tensors}
    for weight, (a, b) in _pairs(adapter)[0].items():
        shape = weights.get(weight)
        if shape is None:
            return f"the base has no tensor {shown(weight)}"
        if len(a.shape) < 2 or len(b.shape) < 2 or (a.shape[0], b.shape[1]) != shape[:2]:
            return f"sizes differ in {shown(weight)}"
    return None


def check_bundle_fit(folder: Path, bases: Sequence[Path], adapters: Sequence[Path]) -> list[Finding]:
    """Whether each adapter of a bundle fits at least one of its bases."""
    read: dict[Path, GgufInfo] = {}
    for path in (*bases, *adapters):
        try:
            read[path] = inspect_gguf(path)
        except InvalidInput:
            continue  # already reported as unreadable
    findings: list[Finding] = []
    for adapter in (path for path in adapters if path in read):
        reasons = [(base.name, fits_base(read[adapter], read[base])) for base in bases if base in read]
        if reasons and all(reason for _, reason in reasons):
            name = str(adapter.relative_to(folder))
            message = f"{name} fits no base of the bundle: {reasons[0][0]}: {reasons[0][1]}"
            findings.append(Finding("error", "adapter-fits-no-base", name, message))
    return findings
