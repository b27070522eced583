"""The part of a plan in which adapters give back a part of what the quantization of their base took."""

from collections.abc import Mapping
from typing import Any

from core.phases.compressing import HELD_OUT_TOKENS, ModelWeights
from core.phases.planned import Compression, Plan, PlannedJob
from core.phases.shrinking import ShrinkingPlanner


class RepairingPlanner(ShrinkingPlanner):
    """Makes the jobs of a repair."""

    def _delivered(
        self,
        plan: Plan,
        small: ModelWeights,
        gguf: PlannedJob,
        cut: Mapping[str, PlannedJob],
        compression: Compression,
    ) -> Mapping[str, PlannedJob]:
        """With a repair: that of the smaller model's file."""
        return self._repaired(plan, small, gguf, cut, small.model.key) if compression.repair and cut else cut

    def _repaired(
        self,
        plan: Plan,
        weights: ModelWeights,
        quantized: PlannedJob,
        adapters: Mapping[str, PlannedJob],
        identity: str,
    ) -> dict[str, PlannedJob]:
        """The adapters of a model's domains with the repair of its quantized file, which is one for all of them.
        `identity` is the hash by which adapters name the model."""
        settings, matrix = self.catalog.settings, self._importance(plan, weights)
        named = {"base_name": weights.name, "base_sha256": identity}
        shared: dict[str, Any] = {"bases": weights.bases, "phase": weights.phase}
        repair = self._add(
            plan,
            "repair",
            f"repair {weights.name}",
            f"{weights.name}-repair",
            {"name": weights.name, **named, "rank": settings.repair_rank, "seed": settings.seed},
            {
                "gguf": weights.whole,
                "quantized": quantized,
                **({"imatrix": matrix} if matrix is not None else {}),
            },
            **shared,
        )
        return {
            source.name: self._add(
                plan,
                "repair-adapter",
                f"repair adapter {source.name}",
                source.name,
                {
                    "domain": source.name,
                    **named,
                    "domains": {source.name: self._divided(weights)[source.name]},
                    "sequence_length": settings.evaluation_sequence_length,
                    "max_tokens": HELD_OUT_TOKENS,
                    "seed": settings.seed,
                },
                {
                    "adapter": adapters[source.name],
                    "repair": repair,
                    "gguf": weights.whole,
                    "quantized": quantized,
                    "model": weights.model,
                    "data": self._data(source),
                },
                domain=source.name,
                **shared,
            )
            for source in weights.sources
        }
