"""LoRA adapters as PEFT stores them: whole in themselves, made for this base, and what the GGUF runtime can carry.

PEFT's layout: `base_model.model.<module>.lora_A.weight` [r, in] and `….lora_B.weight` [out, r]; the update of a
weight is `scale · B @ A` with scale = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

from core.errors import InvalidInput
from core.hygiene.architectures import linear_modules, plain_name
from core.hygiene.findings import Finding, Severity, shown, some
from core.hygiene.kinds import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROVENANCE
from core.hygiene.reading import Malformed, read_object
from core.hygiene.safetensors_file import TensorInfo
from core.hygiene.weights import Weights, read_weights

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.default)?(?:\.(?P<leaf>weight|bias))?$"
)
_PLAIN_PATTERN = re.compile(r"\^?[\w.]+\$?")
_EMBEDDINGS = ("embed_tokens", "wte", "wpe")
_KEY_SUFFIX = re.compile(r"-[0-9a-f]{8}$")


@dataclass
class Adapter:
    """An adapter folder that could be opened: its config and its tensors sorted by what they are.

    `a` and `b` hold lora_A and lora_B by module path (without `base_model.model.`); `other` all further tensors.
    """

    folder: Path
    config: dict[str, Any]
    weights: Weights
    a: dict[str, TensorInfo] = field(default_factory=dict)
    b: dict[str, TensorInfo] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def rank(self, module: str) -> int | None:
        """The rank the config gives a module; None where it cannot be told."""
        return whole(pattern_value(self.config.get("rank_pattern"), module, self.config.get("r")))

    @property
    def base_name(self) -> str | None:
        """The base the adapter says it was trained on."""
        value = self.config.get("base_model_name_or_path")
        return value if isinstance(value, str) and value.strip() else None

    @cached_property
    def targets(self) -> list[str] | None:
        """The target modules as names; None when they are given as an expression or not at all."""
        value = self.config.get("target_modules")
        if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
            return list(value)
        return None


def whole(value: Any) -> int | None:
    """`value` when it is a positive whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def pattern_value(patterns: Any, module: str, default: Any) -> Any:
    """A module's value by PEFT's rank_pattern or alpha_pattern: a name or dotted end of a path; else `default`.

    Returns None when a pattern is a real regular expression: those come from a foreign file and are not run.
    """
    if not isinstance(patterns, dict) or not patterns:
        return default
    for pattern, value in patterns.items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            return None
        name = pattern.strip("^$")
        if module == name or (not pattern.startswith("^") and module.endswith("." + name)):
            return value
    return default


def read_adapter(folder: Path, *, deep: bool | None = None) -> tuple[Adapter | None, list[Finding]]:
    """Open an adapter folder. The adapter is None when its config or weights cannot be read; the findings say why."""
    findings: list[Finding] = []
    config: dict[str, Any] | None = None
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            findings.append(Finding("error", "file-missing", name, f"there is no {name}"))
    if (folder / ADAPTER_CONFIG).is_file():
        try:
            config = read_object(folder / ADAPTER_CONFIG)
        except Malformed as error:
            findings.append(Finding("error", "config-unreadable", ADAPTER_CONFIG, f"{ADAPTER_CONFIG} {error}"))
    if config is None or not (folder / ADAPTER_WEIGHTS).is_file():
        return None, findings
    weights = read_weights(folder, [ADAPTER_WEIGHTS], deep=deep)
    findings += weights.findings
    if not weights.tensors:
        return None, findings
    adapter = Adapter(folder, config, weights)
    for name, tensor in weights.tensors.items():
        match = _TENSOR.fullmatch(name)
        if match and match["part"] == "lora_A" and match["leaf"] == "weight":
            adapter.a[match["module"]] = tensor
        elif match and match["part"] == "lora_B" and match["leaf"] == "weight":
            adapter.b[match["module"]] = tensor
        else:
            adapter.other.append(name)
    return adapter, findings


def check_structure(adapter: Adapter) -> list[Finding]:
    """Check an adapter against itself: its settings, every A with its B, ranks and shapes."""
    findings: list[Finding] = []
    config = adapter.config

    def say(severity: Severity, code: str, message: str, fix: str | None = None, file: str = ADAPTER_CONFIG) -> None:
        findings.append(Finding(severity, code, file, message, fix))

    kind = config.get("peft_type")
    if kind is None:
        say(
            "error",
            "peft-type-missing",
            "the adapter's kind (peft_type) is missing",
            "clean-model reads it off the tensors",
        )
    elif kind != "LORA":
        say("error", "not-lora", f"this is a {shown(kind)} adapter, not LoRA")
        return findings
    if adapter.base_name is None:
        say(
            "error",
            "base-name-missing",
            "the adapter does not say which base it was trained on",
            "taken from tara.json",
        )
    if whole(config.get("r")) is None:
        say("error", "rank-missing", f"the rank r is {shown(config.get('r'))}", "clean-model reads it off the tensors")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or alpha == 0:
        say(
            "error",
            "alpha-missing",
            f"lora_alpha is {shown(alpha)}, so the adapter's scale is unknown",
            "taken from tara.json",
        )
    if not config.get("target_modules"):
        say("error", "targets-missing", "target_modules is missing", "clean-model reads them off the tensors")
    if not adapter.a and not adapter.b:
        say("error", "no-lora-tensors", "the file holds no lora_A and lora_B tensors", file=ADAPTER_WEIGHTS)
        return findings
    alone = sorted(adapter.a.keys() ^ adapter.b.keys())
    if alone:
        say("error", "pair-incomplete", f"lora_A or lora_B is missing for {some(alone)}", file=ADAPTER_WEIGHTS)
    findings += _shapes(adapter) + _target_tensors(adapter)
    if adapter.b and all(tensor.name in adapter.weights.zero for tensor in adapter.b.values()):
        say("warning", "adapter-is-zero", "every lora_B is zero: the adapter changes nothing", file=ADAPTER_WEIGHTS)
    return findings


def _shapes(adapter: Adapter) -> list[Finding]:
    wrong: list[str] = []
    sizes: dict[str, set[tuple[int, int]]] = {}
    for module in sorted(adapter.a.keys() & adapter.b.keys()):
        first, second = adapter.a[module].shape, adapter.b[module].shape
        rank = adapter.rank(module)
        if len(first) != 2 or len(second) != 2 or first[0] != second[1]:
            wrong.append(f"{module} (A {list(first)}, B {list(second)})")
        elif rank is not None and first[0] != rank:
            wrong.append(f"{module} (rank {first[0]}, config says {rank})")
        else:
            sizes.setdefault(re.sub(r"\.\d+\.", ".*.", module), set()).add((first[1], second[0]))
    findings = []
    if wrong:
        findings.append(
            Finding("error", "shape-wrong", ADAPTER_WEIGHTS, f"shapes do not fit together in {some(wrong)}")
        )
    uneven = sorted(name for name, found in sizes.items() if len(found) > 1)
    if uneven:
        findings.append(
            Finding("error", "shape-uneven", ADAPTER_WEIGHTS, f"sizes differ from layer to layer in {some(uneven)}")
        )
    return findings


def _target_tensors(adapter: Adapter) -> list[Finding]:
    if adapter.targets is None:
        return []
    modules = [*adapter.a, *(name.removeprefix("base_model.model.") for name in adapter.other)]
    without = [name for name in adapter.targets if not any(_ends_with(module, name) for module in modules)]
    if not without:
        return []
    return [
        Finding("error", "target-without-tensors", ADAPTER_WEIGHTS, f"target module {some(without)} has no tensors")
    ]


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name) or f".{name}." in f".{module}"


def gguf_limits(adapter: Adapter, severity: Severity = "error") -> list[Finding]:
    """What the adapter uses that a GGUF adapter cannot express, or that the converter would silently leave out."""
    config = adapter.config
    foldable = "clean-model folds the scale into lora_B"
    parts = {match["part"] for name in adapter.other if (match := _TENSOR.fullmatch(name))}
    saved = [name for name in adapter.other if not _TENSOR.fullmatch(name)]
    bias = any(name.endswith(".lora_B.bias") for name in adapter.other)
    rules: list[tuple[bool, str, str, str | None]] = [
        (bool(config.get("use_dora")) or "lora_magnitude_vector" in parts, "gguf-dora",
         "DoRA (a magnitude vector)", None),
        (bool(config.get("use_rslora")), "gguf-rslora", "the rank-stabilised scale (use_rslora)", foldable),
        (bool(config.get("alpha_pattern")), "gguf-alpha-pattern", "an alpha of its own for some modules", foldable),
        (bool(config.get("modules_to_save")), "gguf-modules-to-save",
         f"fully trained modules ({some(_listed(config.get('modules_to_save')))})", None),
        (config.get("bias", "none") not in (None, "none") or bool(config.get("lora_bias")) or bias,
         "gguf-bias", "trained biases", None),
        (any(part.startswith("lora_embedding") for part in parts), "gguf-embedding", "a trained embedding", None),
        (bool(saved) and not config.get("modules_to_save"), "gguf-extra-tensors",
         f"further tensors ({some(saved)})", None),
    ]  # fmt: skip
    return [
        Finding(severity, code, ADAPTER_CONFIG, f"the adapter has {what}, which a GGUF adapter cannot carry", fix)
        for applies, code, what, fix in rules
        if applies
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def same_base(named: str, base_names: Sequence[str]) -> bool:
    """Whether an adapter's base name is one of a base's names.

    Hub names are compared whole (another owner's copy is another model), paths by their last part without a key.
    """
    wanted = {_plain(name) for name in base_names}
    return _plain(named) in wanted or (_is_path(named) and _last(named) in {_last(name) for name in base_names})


def _plain(name: str) -> str:
    return name.strip().rstrip("/\\").casefold()


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1


def _last(name: str) -> str:
    return _KEY_SUFFIX.sub("", PureWindowsPath(_plain(name)).name)  # splits at both kinds of slash


def check_adapter(
    folder: Path,
    base_names: Sequence[str],
    base_config: Mapping[str, Any] | None = None,
    *,
    base_sha256: str | None = None,
    deep: bool | None = None,
) -> list[Finding]:
    """Whether an adapter may be used on a base, in a bundle: whole, trained on it, its modules and sizes fit, GGUF can
    carry it.

    `base_names` are all names of the base (generic name, hub id, path); `base_config` its config.json; `base_sha256`
    its identity, which an adapter trained here records in its tara.json. Raises InvalidInput where `folder` is none.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder", "give a PEFT adapter's folder")
    adapter, findings = read_adapter(folder, deep=deep)
    if adapter is None:
        return findings
    findings += check_structure(adapter) + gguf_limits(adapter)
    named = adapter.base_name
    if named is not None and base_names and not same_base(named, base_names):
        findings.append(
            Finding(
                "error",
                "other-base",
                ADAPTER_CONFIG,
                f"the adapter was trained on {shown(named)}, not on {shown(base_names[0])}",
                None,
            )
        )
    if base_sha256 is not None:
        findings += _against_identity(folder, base_names, base_sha256)
    if base_config is not None:
        findings += check_against_config(adapter, dict(base_config))
    return findings


def _against_identity(folder: Path, base_names: Sequence[str], base_sha256: str) -> list[Finding]:
    """Whether the base an adapter says by hash it was trained on is this one; names and shapes do not tell two apart.
    One that says nothing is let through."""
    if not (folder / PROVENANCE).is_file():
        return []
    try:
        claimed = read_object(folder / PROVENANCE).get("base")
    except Malformed as error:
        return [Finding("error", "provenance-unreadable", PROVENANCE, f"{PROVENANCE} {error}")]
    if not isinstance(claimed, dict) or claimed.get("sha256") in (None, "", base_sha256):
        return []
    here = f"{shown(base_names[0])} " if base_names else ""
    message = (
        f"the adapter was trained on {shown(claimed.get('name'))} {shown(str(claimed['sha256'])[:12])}, not on the "
        f"{here}here ({base_sha256[:12]}), as its {PROVENANCE} says by hash"
    )
    return [Finding("error", "other-base", PROVENANCE, message, "train it on the base here, or use the base it is of")]


def check_against_config(adapter: Adapter, base_config: dict[str, Any]) -> list[Finding]:
    """Whether the adapter's modules exist in the base and have its sizes; every targeted layer is covered."""
    try:
        modules = linear_modules(base_config)
    except Malformed as error:
        return [Finding("error", "base-config-wrong", "", f"the base's config.json {error}")]
    if modules is None:
        kind = shown(base_config.get("model_type"))
        return [
            Finding("note", "architecture-unknown", "", f"sizes were not checked: architecture {kind} is not known")
        ]
    findings: list[Finding] = []
    absent, wrong = [], []
    for module in sorted(adapter.a.keys() & adapter.b.keys()):
        sizes = modules.get(plain_name(module))
        first, second = adapter.a[module].shape, adapter.b[module].shape
        if sizes is None:
            absent.append(module)
        elif len(first) == 2 and len(second) == 2 and (first[1], second[0]) != sizes:
            wrong.append(f"{module} (adapter {first[1]}→{second[0]}, base {sizes[0]}→{sizes[1]})")
    if absent:
        message = f"the base has no module {some(absent)}"
        findings.append(Finding("error", "module-absent", ADAPTER_WEIGHTS, message))
    if wrong:
        message = f"sizes do not fit the base: {some(wrong)}"
        findings.append(Finding("error", "size-mismatch", ADAPTER_WEIGHTS, message))
    if adapter.targets is not None:
        findings += _against_targets(adapter, [plain_name(name) for name in adapter.targets], list(modules))
    return findings


def _against_targets(adapter: Adapter, targets: list[str], modules: list[str]) -> list[Finding]:
    """Whether each target exists among the base's modules, and every module it means has its tensors."""
    findings: list[Finding] = []
    known = [*modules, *_EMBEDDINGS]
    unknown = [name for name in targets if not any(_ends_with(module, name) for module in known)]
    if unknown:
        does = "does" if len(unknown) == 1 else "do"
        message = f"target module {some(unknown)} {does} not exist in this architecture"
        findings.append(Finding("error", "target-unknown", ADAPTER_CONFIG, message))
    if any(adapter.config.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return findings  # some layers were left out on purpose
    have = {plain_name(module) for module in adapter.a}
    bare = [
        module
        for module in modules
        if module not in have and any(module == name or module.endswith("." + name) for name in targets)
    ]
    if bare and len(bare) < len(modules):
        message = f"no tensors for {some(bare)}, which its settings say were trained"
        findings.append(Finding("error", "layer-missing", ADAPTER_WEIGHTS, message))
    return findings
