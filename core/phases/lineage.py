"""What a model file comes from: the F16 file it is held against, the folders of both, the adapters it goes out with."""

from dataclasses import dataclass
from typing import Any

from core.store.reads import Reader

Row = dict[str, Any]  # as Reader.artifacts gives it
_MODELS = ("base", "merged", "small")
_ADAPTERS = ("gguf-adapter", "sliced-adapter")  # made of an adapter's folder, of kind `adapter`


@dataclass(frozen=True)
class Lineage:
    """`f16` is the file's own F16 file, made of the folder `model`; `reference` the F16 file that it is held against,
    made of the folder `whole`. They differ for a model that parts were taken out of: what that costs shows only beside
    the whole one, which has the same vocabulary."""

    f16: Row
    model: Row
    reference: Row
    whole: Row

    @property
    def smaller(self) -> bool:
        """Whether parts were taken out of the model."""
        return bool(self.model["kind"] == "small")


def lineage_of(reader: Reader, artifact: Row) -> Lineage | None:
    """The lineage of a recorded GGUF model (itself, where it is an F16 file); None where the store does not know it."""
    f16 = _first(reader.parents(artifact["id"]), "gguf") or artifact
    model = _first(reader.parents(f16["id"]), *_MODELS)
    if model is None:
        return None
    if model["kind"] != "small":
        return Lineage(f16, model, f16, model)
    pruned = _first(reader.parents(model["id"]), "pruned")
    before = reader.parents(pruned["id"]) if pruned is not None else []
    reference, whole = _first(before, "gguf"), _first(before, *_MODELS)
    return Lineage(f16, model, reference, whole) if reference is not None and whole is not None else None


def delivered_with(reader: Reader, artifact: Row) -> list[tuple[Row, dict[str, Row]]]:
    """The bundles that hold a model file, newest first, each with its adapters by domain."""
    found = []
    for bundle in reader.artifacts(kind="bundle"):
        parts = reader.parents(bundle["id"])
        if any(row["id"] == artifact["id"] for row in parts):
            found.append((bundle, {row["domain"]: row for row in parts if row["kind"] == "gguf-adapter"}))
    return found


def trained_as(reader: Reader, adapter: Row) -> str | None:
    """The key of the trained adapter that a GGUF adapter was made of, cut and repaired or not; None: not known."""
    row: Row | None = adapter
    while row is not None and row["kind"] in _ADAPTERS:
        row = _first(reader.parents(row["id"]), "adapter", *_ADAPTERS)
    return str(row["key"]) if row is not None else None


def _first(rows: list[Row], *kinds: str) -> Row | None:
    return next((row for row in rows if row["kind"] in kinds), None)
