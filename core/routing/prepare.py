"""Routing data made ready for an encoder: the vectors of its texts, and the weights that go with them. Loads numpy."""

from dataclasses import replace
from typing import Any

from core.routing.blend import Blend, blend_from, shipped_blend
from core.routing.content import ContentModel
from core.routing.fit_blend import Cases, accuracy_of, fit, left_out_cases, with_curves
from core.routing.likeness import LikenessModel
from core.routing.rows import Rows, rows_from
from core.routing.vectors import TextEncoder, packed, unpacked

FEWEST_ROWS = 40  # texts said, for a fit of one's own


def with_vectors(data: dict[str, Any], encoder: TextEncoder) -> dict[str, Any]:
    """The data with vectors of `encoder`, and with weights. For the encoder they were made with the shipped weights
    are taken, for another they are fitted to the texts, each left out in turn. Raises EncoderError."""
    rows = rows_from(data)
    stored = packed(encoder.embed(rows.texts()), encoder.identity)
    cases = left_out(data, rows, stored)
    blend = shipped_blend()
    inside = int((cases.right < len(rows.names)).sum())
    if blend.encoder != encoder.identity and inside >= FEWEST_ROWS and len(rows.names) > 1:
        blend = with_curves(fit(blend, [cases]), [cases])
        blend = replace(blend, encoder=encoder.identity, method="fitted to this set's texts, each left out in turn")
    elif inside:
        blend = replace(blend, accuracy=accuracy_of(blend, [cases]), n=inside)
    return {**data, "vectors": stored, "blend": blend.as_dict()}


def left_out(data: dict[str, Any], rows: Rows, stored: dict[str, Any]) -> Cases:
    """The signs of every text of the data as if it were not known."""
    model = model_of(data, rows, stored)
    said = {name: rows.domains[name].said for name in rows.names}
    habits = {name: entry["habits"] for name, entry in data["domains"].items()}
    outside = [text for _, text in rows.outside]
    return left_out_cases(model, said, outside, ContentModel.from_data(data), habits)


def model_of(data: dict[str, Any], rows: Rows | None = None, stored: dict[str, Any] | None = None) -> LikenessModel:
    """The vectors of the data, ready to be compared with. Raises InvalidInput where they are damaged."""
    rows = rows or rows_from(data)
    return LikenessModel(rows, unpacked(stored or data["vectors"], len(rows.texts())))


def blend_of(data: dict[str, Any], source: str = "routing data") -> Blend:
    """The weights in the data."""
    return blend_from(data["blend"], source)
