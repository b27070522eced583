"""Mending a LoRA adapter's settings from its tensors and provenance, and bringing its scale into plain form."""

import math
from pathlib import Path
from typing import Any

from core.hygiene.adapters import Adapter, gguf_limits, pattern_value, read_adapter, whole
from core.hygiene.findings import shown, some
from core.hygiene.fixing import SCALE_FOLDED, Cannot, Change, Outcome
from core.hygiene.kinds import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROVENANCE
from core.hygiene.reading import object_or_empty
from core.hygiene.safetensors_file import read_floats, write_tensors


def adapter_fixes(folder: Path) -> list[Outcome]:
    """What can be completed or brought into a form the GGUF runtime can carry."""
    adapter, findings = read_adapter(folder, deep=False)
    if adapter is None:
        why = some(finding.message for finding in findings if finding.severity == "error")
        return [Cannot("adapter-unreadable", ADAPTER_WEIGHTS, "", f"the adapter cannot be opened: {why}")]
    found = _settings(adapter)
    folded = _scale(adapter)
    found += folded
    foldable = ("gguf-rslora", "gguf-alpha-pattern")
    found += [
        Cannot(finding.code, finding.file, "", f"{finding.message}; merged into its base it can be used")
        for finding in gguf_limits(adapter)
        if finding.code not in foldable
    ]
    return found


def _settings(adapter: Adapter) -> list[Outcome]:
    config, provenance = adapter.config, object_or_empty(adapter.folder / PROVENANCE)
    preset = provenance.get("preset") if isinstance(provenance.get("preset"), dict) else {}
    found: list[Outcome] = []

    def fill(key: str, value: Any, source: str, otherwise: str) -> None:
        if value:
            found.append(Change("adapter-completed", ADAPTER_CONFIG, key, config.get(key), value, source))
        else:
            found.append(Cannot("adapter-incomplete", ADAPTER_CONFIG, key, otherwise))

    if config.get("peft_type") is None:
        lora = "LORA" if adapter.a and adapter.b else None
        fill("peft_type", lora, "its tensors are lora_A and lora_B", "its tensors are not those of a LoRA adapter")
    if adapter.base_name is None:
        fill("base_model_name_or_path", _recorded_base(provenance), PROVENANCE,
             f"no {PROVENANCE} beside it names the base, and tensors do not tell it")  # fmt: skip
    if config.get("r") is None:
        ranks = {tensor.shape[0] for tensor in adapter.a.values() if tensor.shape}
        fill("r", ranks.pop() if len(ranks) == 1 else None, "the rows of lora_A", "lora_A has several ranks or none")
    if config.get("lora_alpha") is None:
        alpha = preset.get("lora_alpha") if isinstance(preset, dict) else None
        fill("lora_alpha", whole(alpha), PROVENANCE, "tensors do not tell the scale they were trained with")
    if not config.get("target_modules"):
        names = sorted({module.rpartition(".")[2] for module in adapter.a})
        fill("target_modules", names, "the modules there are tensors for", "there are no lora_A tensors")
    return found


def _recorded_base(provenance: dict[str, Any]) -> str | None:
    base = provenance.get("base")
    value = base.get("name") if isinstance(base, dict) else base
    return value if isinstance(value, str) and value.strip() else None


def _scale(adapter: Adapter) -> list[Outcome]:
    config = adapter.config
    stabilised, patterns = bool(config.get("use_rslora")), config.get("alpha_pattern")
    if config.get("use_dora") or not (stabilised or patterns) or config.get("peft_type", "LORA") != "LORA":
        return []
    try:
        factors = _factors(adapter)
    except ValueError as error:
        return [Cannot("gguf-rslora" if stabilised else "gguf-alpha-pattern", ADAPTER_CONFIG, "", str(error))]
    low, high = min(factors.values(), default=1.0), max(factors.values(), default=1.0)
    span = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    reason = "the same adapter with the scale alpha / r, which a GGUF adapter carries"
    found: list[Outcome] = [Change(SCALE_FOLDED, ADAPTER_WEIGHTS, "lora_B", 1.0, f"multiplied by {span}", reason)]
    if stabilised:
        found.append(Change("scale-plain", ADAPTER_CONFIG, "use_rslora", True, False, reason))
    if patterns:
        found.append(Change("scale-plain", ADAPTER_CONFIG, "alpha_pattern", patterns, {}, reason))
    return found


def _factors(adapter: Adapter) -> dict[str, float]:
    """By module, what lora_B is multiplied by so that the plain scale alpha / r gives the same update.

    Raises ValueError when an alpha cannot be told or a tensor is not floating-point.
    """
    config = adapter.config
    alpha = config.get("lora_alpha")
    factors: dict[str, float] = {}
    for module, tensor in adapter.b.items():
        own = pattern_value(config.get("alpha_pattern"), module, alpha)
        if not _is_number(alpha) or not _is_number(own):
            raise ValueError(f"the alpha of {shown(module)} cannot be told from the settings")
        if tensor.dtype not in ("F64", "F32", "F16", "BF16") or len(tensor.shape) != 2:
            raise ValueError(f"lora_B of {shown(module)} is not a plain floating-point matrix")
        rank = tensor.shape[1]
        factors[module] = own / alpha * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
    return factors


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0 and math.isfinite(value)


def fold_scale(folder: Path) -> None:
    """Multiply every lora_B of the adapter in `folder` by its factor, in float32 (B in half precision becomes float32
    so that nothing more is rounded), and write the weights again. Settings are changed by the caller."""
    import numpy as np

    adapter, _ = read_adapter(folder, deep=False)
    assert adapter is not None  # it was readable when the fix was found, and the folder is our own copy
    factors = {adapter.b[module].name: factor for module, factor in _factors(adapter).items()}
    path = folder / ADAPTER_WEIGHTS
    raw = path.read_bytes()
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, tensor in adapter.weights.tensors.items():
        if name in factors:
            wide = np.float64 if tensor.dtype == "F64" else np.float32
            values = read_floats(path, tensor).astype(wide) * wide(factors[name])
            tensors[name] = ("F64" if wide is np.float64 else "F32", tensor.shape, values.tobytes())
        else:
            tensors[name] = (tensor.dtype, tensor.shape, raw[tensor.start : tensor.end])
    temporary = path.with_name(f".tmp-{path.name}")
    write_tensors(temporary, tensors)
    temporary.replace(path)
