"""The part of a plan in which a model becomes a smaller file: importance matrix, plain types, mixtures of types."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog.model import AS_IS, QUANTIZATIONS
from core.errors import InvalidInput, Refused
from core.phases.keying import JobMaker
from core.phases.planned import Compression, DomainSource, Plan, PlannedJob
from core.training.data import find_data

HELD_OUT_TOKENS = 1000  # scored positions a domain, on which a mixture of types is judged


@dataclass(frozen=True)
class ModelWeights:
    """A model on its way to a smaller file: its folder, its F16 file, and the domains whose text it is to serve."""

    name: str
    model: PlannedJob
    whole: PlannedJob
    sources: Sequence[DomainSource]
    phase: int | None
    domain: str | None = None

    @property
    def bases(self) -> tuple[str, ...]:
        return (self.sources[0].base,)


class CompressingPlanner(JobMaker):
    """Makes the jobs of compression, and knows what text a domain is taught."""

    def _quantized(self, plan: Plan, weights: ModelWeights, quantization: str) -> PlannedJob:
        """The F16 file in a smaller type, with the importance matrix of what its domains teach."""
        inputs = {"gguf": weights.whole}
        matrix = self._importance(plan, weights)
        if matrix is not None:
            inputs["imatrix"] = matrix
        return self._add(
            plan,
            "quantize",
            f"quantize {weights.name} to {quantization}",
            f"{weights.name}-{quantization}",
            {"name": weights.name, "type": quantization},
            inputs,
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
        )

    def _compressed(self, plan: Plan, weights: ModelWeights, compression: Compression) -> PlannedJob:
        """The F16 file made smaller by the technique asked for."""
        if compression.quantization == AS_IS:
            return self._kept(plan, weights)
        if compression.technique == "standard":
            return self._quantized(plan, weights, compression.quantization)
        return self._hybrid(plan, weights, compression)

    def _kept(self, plan: Plan, weights: ModelWeights) -> PlannedJob:
        """The file that the base came as. The F16 file of it is what that is measured against."""
        facts, identity = self._bases[weights.bases[0]]
        if facts["gguf_file"] is None:
            raise Refused(
                f"{weights.name} is no GGUF file but a folder of weights, so that it cannot stay {AS_IS}",
                f"--quantization with one of {', '.join(QUANTIZATIONS)}, or put its domains on a base that is one",
            )
        return self._add(
            plan,
            "keep",
            f"keep the file of {weights.name}",
            f"{weights.name}-{AS_IS}",
            {"name": weights.name, "base": facts},
            {"gguf": weights.whole},
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
            hashed={"name": weights.name, "identity": identity},
        )

    def _hybrid(self, plan: Plan, weights: ModelWeights, compression: Compression) -> PlannedJob:
        """The F16 file with a type per tensor, or in a plain type where that is not better on what is held out. With a
        target size the plain type follows from it, so that the phase's own makes nothing stale."""
        matrix = self._importance(plan, weights)
        if matrix is None:
            raise Refused(
                "hybrid needs an importance matrix, and training.calibration_tokens is 0 in configs/settings.yaml",
                "set it above 0, or build with --compression-type standard",
            )
        settings, target = self.catalog.settings, compression.target_bytes
        shared = {
            "name": weights.name,
            "domains": self._divided(weights),
            "seed": settings.seed,
            "sequence_length": settings.evaluation_sequence_length,
        }
        inputs = {
            "gguf": weights.whole,
            "imatrix": matrix,
            "model": weights.model,
            "data": {source.name: self._data(source) for source in weights.sources},
        }
        costs = self._add(
            plan,
            "type-costs",
            f"costs of types for {weights.name}",
            weights.name,
            {**shared, "target_bytes": target},  # only to refuse what cannot be had before the long part
            inputs,
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
            hashed=shared,
        )
        return self._add(
            plan,
            "hybrid",
            f"solve types for {weights.name}",
            f"{weights.name}-hybrid",
            {
                **shared,
                "type": compression.quantization if target is None else None,
                "target_bytes": target,
                "max_tokens": HELD_OUT_TOKENS,
            },
            {**inputs, "costs": costs},
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
        )

    def _divided(self, weights: ModelWeights) -> dict[str, dict[str, Any]]:
        return self._divided_by_domain(weights.sources)

    def _divided_by_domain(self, sources: Sequence[DomainSource]) -> dict[str, dict[str, Any]]:
        """What decides which text of each domain is taught and which is held out, and how it is rendered."""
        shaping = ("system_prompt", "seed", "held_out_fraction")
        taught = {source.name: self._taught(source) for source in sources}
        return {name: {each: facts[each] for each in shaping} for name, facts in taught.items()}

    def _importance(self, plan: Plan, weights: ModelWeights) -> PlannedJob | None:
        settings = self.catalog.settings
        if not settings.calibration_tokens:
            return None
        return self._add(
            plan,
            "imatrix",
            f"importance matrix of {weights.name}",
            weights.name,
            {
                "name": weights.name,
                "domains": self._divided(weights),
                "tokens": settings.calibration_tokens,
                "sequence_length": settings.evaluation_sequence_length,
            },
            {
                "base": weights.model,
                "gguf": weights.whole,
                "data": {source.name: self._data(source) for source in weights.sources},
            },
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
        )

    def _taught(self, source: DomainSource) -> dict[str, Any]:
        """What shapes a domain's adapter besides preset, base and data."""
        now = {
            "domain": source.name,
            "seed": self.catalog.settings.seed,
            "held_out_fraction": self.catalog.settings.held_out_fraction,
            "system_prompt": self.catalog.domain(source.name).system_prompt,
        }
        return now if source.shaping is None else {name: source.shaping[name] for name in now}

    def _data(self, source: DomainSource) -> Path:
        if source.data_path is not None:
            path = self.workspace.absolute(source.data_path)
            if not path.is_file():
                raise InvalidInput(f"the data of {source.name} is gone: {path}", "tara train-domain NAME --data FILE")
            return path
        return find_data(self.workspace, source.name)
