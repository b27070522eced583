"""Mending a model's config.json and shard index from the tensors that are really there."""

import json
from pathlib import Path
from typing import Any

from core.files import write_atomically
from core.hygiene.architectures import Family, family_of, plain_name
from core.hygiene.fixing import INDEX_REBUILT, Cannot, Change, Outcome
from core.hygiene.model_check import CONFIG
from core.hygiene.reading import Malformed, object_or_empty
from core.hygiene.safetensors_file import read_header
from core.hygiene.weights import INDEX, SHARD, model_files

_INDEX_CODES = ("index-missing", "index-unreadable", "index-wrong")


def model_fixes(folder: Path) -> list[Outcome]:
    """Derivable values missing from config.json, and a missing or wrong shard index."""
    config = object_or_empty(folder / CONFIG)
    if not config:
        return [
            Cannot("config-missing", CONFIG, "", "without a readable config.json nothing says which architecture it is")
        ]
    names, findings = model_files(folder)
    found: list[Outcome] = _index_fix(folder, {finding.code for finding in findings})
    family = family_of(config)
    if family is None:
        if not isinstance(config.get("model_type"), str):
            found.append(Cannot("config-incomplete", CONFIG, "model_type", "no known class is named in architectures"))
        return found
    if config.get("model_type") is None:
        name = next(key for key in _types(family))
        found.append(_set("model_type", None, name, f"the type of {family.class_name} (architectures)"))
    if not config.get("architectures"):
        reason = "the causal language model class of this model_type"
        found.append(_set("architectures", config.get("architectures"), [family.class_name], reason))
    shapes = _shapes(folder, names)
    for key in family.required:
        if config.get(key) is None:
            found.append(_derive(key, family, config, shapes))
    return found + _vocabulary(family, config, shapes)


def _types(family: Family) -> list[str]:
    from core.hygiene.architectures import FAMILIES

    return [name for name, known in FAMILIES.items() if known is family]


def _set(key: str, old: Any, new: Any, reason: str) -> Change:
    return Change("config-completed", CONFIG, key, old, new, reason)


def _shapes(folder: Path, names: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        try:
            header = read_header(folder / name)
        except (Malformed, OSError):
            continue  # the checks report the file; what cannot be read derives nothing
        shapes |= {plain_name(tensor): info.shape for tensor, info in header.items()}
    return shapes


def _derive(key: str, family: Family, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Outcome:
    embedding = shapes.get(family.embedding, ())
    value: int | None = None
    reason = ""
    if key in ("vocab_size", family.width_key) and len(embedding) == 2:
        value = embedding[0 if key == "vocab_size" else 1]
        reason = f"the shape of {family.embedding}"
    elif key == family.layers_key:
        layers = {int(name.split(".")[1]) for name in shapes if name.startswith(family.layer_prefix)}
        if layers and layers == set(range(len(layers))):
            value, reason = len(layers), "the layers there are tensors for"
    elif key == "intermediate_size":
        down = shapes.get("layers.0.mlp.down_proj.weight", ())
        if len(down) == 2:
            value, reason = down[1], "the shape of mlp.down_proj"
    elif key == "n_positions" and len(shapes.get("wpe.weight", ())) == 2:
        value, reason = shapes["wpe.weight"][0], "the shape of wpe.weight"
    elif key == family.heads_key:
        value, reason = _heads(config, shapes)
    if value:
        return _set(key, config.get(key), value, reason)
    return Cannot("config-incomplete", CONFIG, key, "the tensors do not tell it: take it from the original model")


def _heads(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> tuple[int | None, str]:
    """Heads follow from the query's rows only where the head's size is stated."""
    query, size = shapes.get("layers.0.self_attn.q_proj.weight", ()), config.get("head_dim")
    if len(query) == 2 and isinstance(size, int) and size > 0 and query[0] % size == 0:
        return query[0] // size, "the rows of self_attn.q_proj over head_dim"
    return None, ""


def _vocabulary(family: Family, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[Outcome]:
    """A vocab_size that contradicts the embedding stops loading; the tensors are what the model is."""
    embedding, head, stated = shapes.get(family.embedding, ()), shapes.get("lm_head.weight"), config.get("vocab_size")
    if len(embedding) != 2 or stated is None or stated == embedding[0]:
        return []
    if head is not None and head[0] != embedding[0]:
        reason = f"the embedding has {embedding[0]} rows and the output head {head[0]}"
        return [Cannot("vocabulary-differs", CONFIG, "vocab_size", reason)]
    return [Change("config-corrected", CONFIG, "vocab_size", stated, embedding[0], f"the shape of {family.embedding}")]


def _index_fix(folder: Path, codes: set[str]) -> list[Outcome]:
    if "shard-missing" in codes:
        return [
            Cannot(
                "shard-missing",
                INDEX,
                "weight_map",
                "weights that are not there cannot be made up: get the shard again",
            )
        ]
    if not codes & set(_INDEX_CODES):
        return []
    shards = sorted(path.name for path in folder.iterdir() if SHARD.match(path.name))
    totals = {name.split("-of-")[1] for name in shards}
    if not shards or len(totals) != 1 or len(shards) != int(totals.pop().split(".")[0]):
        return [Cannot("index-wrong", INDEX, "weight_map", "the shards in the folder are not one complete set")]
    for name in shards:
        try:
            read_header(folder / name)
        except (Malformed, OSError):
            return [Cannot("index-wrong", INDEX, "weight_map", f"{name} is damaged: get that shard again")]
    old = "missing" if "index-missing" in codes else "wrong"
    return [Change(INDEX_REBUILT, INDEX, "weight_map", old, f"{len(shards)} shards", "the shards' own headers")]


def rebuild_index(folder: Path) -> None:
    """Write model.safetensors.index.json from the headers of the shards. Raises Malformed for a damaged shard."""
    weight_map: dict[str, str] = {}
    total = 0
    for path in sorted(folder.iterdir()):
        if SHARD.match(path.name):
            header = read_header(path)
            weight_map |= dict.fromkeys(header, path.name)
            total += sum(tensor.end - tensor.start for tensor in header.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")
