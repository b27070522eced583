"""How large the files of a choice will be before they are made, by dry runs that are asked for once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from core.catalog import Catalog
from core.catalog.bases import base_identity, locate
from core.catalog.model import QUANTIZATIONS
from core.phases.dry_runs import CutSize, CutWish, Outline, cut_sizes_of, outline_of
from core.phases.shrinking import SHRINKING
from core.workspace import Workspace

# The bytes of a file by technique, from the outline, the type and the budget (None: the plain type's own size). A
# mixture never takes more than its budget, and leaves little of it over: of a model with many matrices less than a
# thousandth, of one with two that hold nearly all its weights up to a tenth. Those of models that parts are taken out
# of are asked for by themselves (`FileSizes.cut`).
SIZES: Mapping[str, Callable[[Outline, str, int | None], int]] = {
    "standard": lambda outline, quantization, _: outline.sizes[quantization],
    "hybrid": lambda outline, quantization, budget: (
        outline.sizes[quantization] if budget is None else min(max(budget, outline.least_bytes), outline.f16_bytes)
    ),
}


class FileSizes:
    """Looks at each base once."""

    def __init__(self, workspace: Workspace, catalog: Catalog) -> None:
        self._workspace, self._catalog = workspace, catalog
        self._outlines: dict[str, Outline] = {}

    def outline(self, base: str) -> Outline:
        """The outline of a base's files."""
        if base not in self._outlines:
            located = locate(self._catalog.bases[base], self._workspace)
            self._outlines[base] = outline_of(located.file, base_identity(located))
        return self._outlines[base]

    def of(
        self, technique: str, quantization: str, budget: int | None, outlines: Sequence[Outline]
    ) -> tuple[list[int], str]:
        """The bytes of files with these outlines by a technique of `SIZES`, and by what rule."""
        by = (
            "the engine's own rules" if technique == "standard" else "its budget, of which a mixture leaves little over"
        )
        return [SIZES[technique](one, quantization, budget) for one in outlines], by

    def cut(self, base: str, quantization: str, technique: str, budget: int | None) -> CutSize:
        """The size of a base's file with parts taken out, to a budget in bytes or else to the settings' share. All that
        may be asked is asked at once: a process for each would take longer than the answers."""
        located = locate(self._catalog.bases[base], self._workspace)
        wish = self._wish(quantization, technique, budget)
        every = [self._wish(name, one, budget) for name in QUANTIZATIONS for one in SHRINKING]
        wishes = list(dict.fromkeys([wish, *every]))
        return cut_sizes_of(located.file, base_identity(located), wishes)[0]

    def _wish(self, quantization: str, technique: str, budget: int | None) -> CutWish:
        if budget is not None:
            return CutWish(quantization, target_bytes=budget)
        return CutWish(quantization, keep=self._catalog.settings.kept_by(technique))


def cut_as(cuts: Sequence[CutSize]) -> str:
    """How such sizes are meant."""
    if not all(one.cuts for one in cuts):
        return "of the least that can stay"
    return f"at most; which of {max(one.cuts for one in cuts)} ways to cut is taken is measured while it is built"


def fewer_layers(outline: Outline, cut: CutSize) -> Outline:
    """The outline of a model of fewer layers, as far as its cache goes."""
    return replace(outline, cache_bytes_a_token=-(-outline.cache_bytes_a_token * cut.layers // cut.of_layers))
