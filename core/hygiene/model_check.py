"""A whole model's folder: its config says what its architecture needs, and the weights are what the config implies."""

from pathlib import Path
from typing import Any

from core.hygiene.architectures import (
    BUFFERS,
    FAMILIES,
    HEAD,
    Family,
    expected_tensors,
    family_of,
    head_shape,
    plain_name,
)
from core.hygiene.findings import Finding, Severity, shown, some
from core.hygiene.reading import Malformed, read_object
from core.hygiene.tokenizer import TokenizerFiles, check_generation_config, check_tokenizer
from core.hygiene.weights import Weights, check_pickles, model_files, read_weights

CONFIG = "config.json"


def check_model(folder: Path, *, deep: bool | None = None) -> tuple[list[Finding], dict[str, Any]]:
    """Findings and facts about a model's folder."""
    config, findings = _config(folder)
    names, set_findings = model_files(folder)
    weights = read_weights(folder, names, deep=deep)
    findings += set_findings + weights.findings
    findings += check_pickles(folder, has_safetensors=weights.readable)
    complete = weights.readable and not any(finding.severity == "error" for finding in set_findings)
    rows = embedding_rows(config, weights)
    if config and weights.tensors:
        findings += _against_config(config, weights, complete=complete)
    findings += check_tokenizer(folder, required=True, vocabulary=rows)
    findings += check_generation_config(folder) + _token_ids(folder, config, rows)
    facts: dict[str, Any] = {
        "architecture": shown(config.get("model_type")) if config.get("model_type") else None,
        "parameters": sum(tensor.elements for tensor in weights.tensors.values()),
        "numbers_checked": weights.checked,
        "numbers": weights.total,
    }
    return findings, facts


def _config(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    path = folder / CONFIG
    if not path.is_file():
        return {}, [Finding("error", "file-missing", CONFIG, f"there is no {CONFIG}")]
    try:
        config = read_object(path)
    except Malformed as error:
        return {}, [Finding("error", "config-unreadable", CONFIG, f"{CONFIG} {error}")]
    findings: list[Finding] = []

    def say(severity: Severity, code: str, message: str, fix: str | None = None) -> None:
        findings.append(Finding(severity, code, CONFIG, message, fix))

    if not isinstance(config.get("model_type"), str):
        fix = "derived from architectures" if family_of(config) else None
        say("error", "config-incomplete", f"{CONFIG} does not name its model_type", fix)
    family = family_of(config)
    if not config.get("architectures"):
        fix = f"the class of {config['model_type']} is {family.class_name}" if family else None
        say("warning", "config-incomplete", f"{CONFIG} does not name its class (architectures)", fix)
    if family is None:
        if isinstance(config.get("model_type"), str):
            known = ", ".join(sorted(FAMILIES))
            kind = shown(config["model_type"])
            say("note", "architecture-unknown", f"architecture {kind} is not among those checked in full ({known})")
            if config.get("vocab_size") is None:
                say("warning", "config-incomplete", f"{CONFIG} lacks vocab_size")
        return config, findings
    for key in family.required:
        if config.get(key) is None:
            say("error", "config-incomplete", f"{CONFIG} lacks {key}, so a default would be assumed",
                "derived from the weights where they tell it")  # fmt: skip
    return config, findings


def embedding_rows(config: dict[str, Any], weights: Weights) -> int | None:
    """Rows of the token embedding as stored, or None when it is not known where it is."""
    family = family_of(config)
    if family is None:
        return None
    for name, tensor in weights.tensors.items():
        if plain_name(name) == family.embedding and tensor.shape:
            return tensor.shape[0]
    return None


def _against_config(config: dict[str, Any], weights: Weights, *, complete: bool) -> list[Finding]:
    family = family_of(config)
    if family is None or any(config.get(key) is None for key in family.required):
        return []
    if config.get("quantization_config"):
        return [
            Finding("note", "sizes-not-checked", CONFIG, "the weights are quantized; their shapes were not checked")
        ]
    try:
        expected = expected_tensors(config)
    except Malformed as error:
        return [Finding("error", "config-wrong", CONFIG, f"{CONFIG} {error}")]
    assert expected is not None
    stored = {plain_name(name): tensor.shape for name, tensor in weights.tensors.items()}
    findings: list[Finding] = []
    wrong = [
        f"{name} ({list(stored[name])}, should be {list(shape)})"
        for name, shape in expected.items()
        if name in stored and stored[name] != shape
    ]
    missing = [name for name in expected if name not in stored]
    findings += _head(config, family, stored, missing)
    if wrong:
        message = f"tensors have other shapes than {CONFIG} implies: {some(wrong)}"
        findings.append(Finding("error", "shape-wrong", CONFIG, message))
    if missing and complete:
        message = f"{len(missing)} of the {len(expected)} tensors {CONFIG} implies are missing: {some(missing)}"
        findings.append(Finding("error", "tensor-missing", "", message))
    extra = [name for name in stored if name not in expected and name != HEAD and not name.endswith(BUFFERS)]
    if extra:
        message = f"{len(extra)} tensors are not part of a {config.get('model_type')} model: {some(extra)}"
        findings.append(Finding("warning", "tensor-unexpected", "", message))
    return findings


def _head(
    config: dict[str, Any], family: Family, stored: dict[str, tuple[int, ...]], missing: list[str]
) -> list[Finding]:
    shape = head_shape(config, family)
    if HEAD in stored:
        if stored[HEAD] == shape:
            return []
        message = f"the output head is {list(stored[HEAD])}, {CONFIG} implies {list(shape)}"
        return [Finding("error", "shape-wrong", CONFIG, message)]
    if config.get("tie_word_embeddings") is False and not missing:
        message = f"{CONFIG} says the output head is its own (tie_word_embeddings false), but there is none"
        return [Finding("error", "tensor-missing", "", message)]
    return []


def _token_ids(folder: Path, config: dict[str, Any], rows: int | None) -> list[Finding]:
    findings: list[Finding] = []
    tokenizer = TokenizerFiles(folder)
    for key in ("pad_token_id", "eos_token_id", "bos_token_id"):
        value = config.get(key)
        ids = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
        if rows is not None and any(not 0 <= number < rows for number in ids):
            message = f"{CONFIG} gives {key} as {shown(value)}, outside the embedding's {rows} rows"
            findings.append(Finding("error", "token-id-outside", CONFIG, message))
        token = tokenizer.special_token(key.removesuffix("_id"))
        known = tokenizer.ids.get(token) if token is not None else None
        if ids and known is not None and known not in ids:
            message = f"{CONFIG} gives {key} as {shown(value)}, the tokenizer's {shown(token)} is {known}"
            findings.append(Finding("warning", "token-id-differs", CONFIG, message))
        if key == "pad_token_id" and not ids and token is not None:
            message = f"{CONFIG} has no pad_token_id though the tokenizer has a pad token"
            findings.append(Finding("note", "pad-id-missing", CONFIG, message, "looked up in the tokenizer"))
    return findings
