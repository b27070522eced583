"""Mending a tokenizer's settings: tokens and ids are looked up in its own vocabulary, never made up."""

from pathlib import Path
from typing import Any

from core.hygiene.findings import shown
from core.hygiene.fixing import Cannot, Change, Outcome
from core.hygiene.reading import object_or_empty
from core.hygiene.tokenizer import SPECIAL_TOKENS, TOKENIZER_CONFIG, TokenizerFiles

_ID_FILES = ("config.json", "generation_config.json")


def tokenizer_fixes(folder: Path) -> list[Outcome]:
    """Missing end and pad tokens, pad ids and the length limit of a folder's tokenizer."""
    files = TokenizerFiles(folder)
    if not files.present:
        return []
    found: list[Outcome] = []
    eos = files.special_token("eos_token")
    if eos is None:
        eos, outcome = _token_by_id(files, folder, "eos_token")
        found += outcome
    pad = files.special_token("pad_token")
    if pad is None:
        pad, outcome = _pad(files, folder, eos)
        found += outcome
    if pad is not None and pad in files.ids:
        found += _pad_ids(folder, pad, files.ids[pad])
    return found + _length(files, folder)


def _configured_id(folder: Path, key: str) -> int | None:
    for name in _ID_FILES:
        value = object_or_empty(folder / name).get(key)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int) and not isinstance(first, bool):
            return first
    return None


def _token_by_id(files: TokenizerFiles, folder: Path, name: str) -> tuple[str | None, list[Outcome]]:
    """A special token the tokenizer does not name, found by the id the model's config gives it."""
    number = _configured_id(folder, f"{name}_id")
    token = files.tokens.get(number) if number is not None else None
    if token is None:
        reason = "neither the tokenizer's files nor config.json say which token it is"
        return None, [Cannot(f"{name.replace('_', '-')}-missing", TOKENIZER_CONFIG, name, reason)]
    return token, _set_token(files, name, token, f"config.json gives its id as {number}")


def _pad(files: TokenizerFiles, folder: Path, eos: str | None) -> tuple[str | None, list[Outcome]]:
    number = _configured_id(folder, "pad_token_id")
    token = files.tokens.get(number) if number is not None else None
    if token is not None:
        return token, _set_token(files, "pad_token", token, f"config.json gives its id as {number}")
    if eos is None:
        reason = "the tokenizer has no end token to pad with either"
        return None, [Cannot("pad-token-missing", TOKENIZER_CONFIG, "pad_token", reason)]
    if eos not in files.ids:
        reason = f"its end token {shown(eos)!r} could not be found in a vocabulary file that can be read here"
        return None, [Cannot("pad-token-missing", TOKENIZER_CONFIG, "pad_token", reason)]
    return eos, _set_token(files, "pad_token", eos, "the tokenizer's own end token; padding is masked in training")


def _set_token(files: TokenizerFiles, name: str, token: str, reason: str) -> list[Outcome]:
    if not files.config:
        return [
            Cannot(
                f"{name.replace('_', '-')}-missing", TOKENIZER_CONFIG, name, f"there is no readable {TOKENIZER_CONFIG}"
            )
        ]
    code = f"{name.replace('_', '-')}-set"
    changes: list[Outcome] = [Change(code, TOKENIZER_CONFIG, name, files.config.get(name), token, reason)]
    if files.special:
        changes.append(Change(code, SPECIAL_TOKENS, name, files.special.get(name), token, reason))
    return changes


def _pad_ids(folder: Path, pad: str, number: int) -> list[Outcome]:
    found: list[Outcome] = []
    for name in _ID_FILES:
        values = object_or_empty(folder / name)
        if values and values.get("pad_token_id") is None:
            reason = f"the id of {shown(pad)!r} in the tokenizer"
            found.append(Change("pad-id-set", name, "pad_token_id", None, number, reason))
    return found


def _length(files: TokenizerFiles, folder: Path) -> list[Outcome]:
    config: dict[str, Any] = object_or_empty(folder / "config.json")
    if files.length_is_set or not files.config or not config:
        return []
    for key in ("max_position_embeddings", "n_positions"):
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            old = files.config.get("model_max_length")
            return [Change("length-set", TOKENIZER_CONFIG, "model_max_length", old, value, f"{key} in config.json")]
    return [Cannot("length-missing", TOKENIZER_CONFIG, "model_max_length", "config.json names no number of positions")]
