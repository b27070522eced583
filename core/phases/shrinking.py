"""The part of a plan in which a model loses layers and channels: pruned, taught by the whole one, its adapters cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.phases.compressing import HELD_OUT_TOKENS, CompressingPlanner, ModelWeights
from core.phases.planned import Compression, DomainSource, Plan, PlannedJob

SHRINKING = {"sparse": "heal", "distilled": "distil"}  # techniques, and the job that teaches the pruned model


@dataclass(frozen=True)
class SmallModel:
    """What became of a model: its smaller self as weights, the file of it, the adapters it is delivered with, and the
    file with what it loses."""

    weights: ModelWeights
    gguf: PlannedJob
    adapters: Mapping[str, PlannedJob]
    check: PlannedJob


class ShrinkingPlanner(CompressingPlanner):
    """Makes the jobs of the techniques that take parts of a model out."""

    def _small(
        self,
        plan: Plan,
        weights: ModelWeights,
        adapters: Mapping[str, PlannedJob],
        whole_adapters: Mapping[str, PlannedJob],
        compression: Compression,
    ) -> SmallModel:
        """A model made smaller by `sparse` or `distilled`. `adapters` are those of its domains as folders, and
        `whole_adapters` as files, where the domains are not part of its weights."""
        technique = compression.technique
        name = f"{weights.name}+{technique}"
        model = self._taught_model(plan, weights, name, adapters, compression)
        small = self._weights(
            plan, name, weights.sources[0].base, model, weights.sources, weights.phase, weights.domain
        )
        gguf = self._quantized(plan, small, compression.quantization)
        cut = {
            source.name: self._cut_adapter(plan, source, weights, model, adapters[source.name])
            for source in weights.sources
            if source.name in adapters
        }
        delivered = self._delivered(plan, small, gguf, cut, compression)
        matrix = self._importance(plan, weights)
        check = self._add(
            plan,
            "check-small",
            f"measure {technique} {weights.name}",
            name,
            {
                "name": name,
                "technique": technique,
                "type": compression.quantization,
                "domains": self._divided(weights),
                "sequence_length": self.catalog.settings.evaluation_sequence_length,
                "max_tokens": HELD_OUT_TOKENS,
            },
            {
                "gguf": gguf,
                "model": model,
                "whole": weights.whole,
                "data": {source.name: self._data(source) for source in weights.sources},
                "small_adapters": dict(delivered),
                "adapters": dict(whole_adapters),
                **({"imatrix": matrix} if matrix is not None else {}),
            },
            bases=weights.bases,
            phase=weights.phase,
            domain=weights.domain,
        )
        return SmallModel(small, gguf, delivered, check)

    def _delivered(
        self,
        plan: Plan,
        small: ModelWeights,
        gguf: PlannedJob,
        cut: Mapping[str, PlannedJob],
        compression: Compression,
    ) -> Mapping[str, PlannedJob]:
        """The adapters that a smaller model's file is delivered with, which it is judged by; a planner that changes
        them once more says how."""
        return cut

    def _taught_model(
        self,
        plan: Plan,
        weights: ModelWeights,
        name: str,
        adapters: Mapping[str, PlannedJob],
        compression: Compression,
    ) -> PlannedJob:
        """Prune, read the whole model, teach the pruned one."""
        settings, technique = self.catalog.settings, compression.technique
        shared: dict[str, Any] = {"bases": weights.bases, "phase": weights.phase, "domain": weights.domain}
        inputs = {"data": {source.name: self._data(source) for source in weights.sources}, "adapters": dict(adapters)}
        text = {"domains": self._divided(weights), "sequence_length": settings.student_length}
        target = compression.target_bytes
        limits = {
            "keep": settings.kept_by(technique) if target is None else None,
            "target_bytes": target,
            "type": compression.quantization if target is not None else None,
        }
        pruned = self._add(
            plan,
            "prune",
            f"prune {weights.name}",
            f"{weights.name}+pruned",
            {"name": f"{weights.name}+pruned", **limits, **text, "tokens": settings.prune_tokens},
            {"base": weights.model, "gguf": weights.whole, **inputs},
            **shared,
        )
        teacher = self._add(
            plan,
            "teach",
            f"read {weights.name} as teacher",
            f"{weights.name}+teacher",
            {
                "name": f"{weights.name}+teacher", **text, "tokens": settings.teacher_tokens,
                "top": settings.teacher_top,
            },
            {"base": weights.model, **inputs},
            **shared,
        )  # fmt: skip
        kind = SHRINKING[technique]
        return self._add(
            plan,
            kind,
            f"{kind} {weights.name}",
            name,
            {
                "name": name,
                "base_name": weights.sources[0].base,
                **text,
                "tokens": settings.teacher_tokens,
                **settings.lesson_dict(technique),
            },
            {"model": pruned, "teacher": teacher, **inputs},
            **shared,
        )

    def _cut_adapter(
        self, plan: Plan, source: DomainSource, weights: ModelWeights, model: PlannedJob, adapter: PlannedJob
    ) -> PlannedJob:
        """A domain's adapter as a file for the small model, whose identity is its job's key."""
        shared: dict[str, Any] = {"bases": weights.bases, "phase": weights.phase, "domain": source.name}
        sliced = self._add(
            plan,
            "slice-adapter",
            f"cut adapter {source.name}",
            source.name,
            {"domain": source.name},
            {"base": weights.model, "adapter": adapter, "model": model},
            **shared,
        )
        return self._add(
            plan,
            "adapter-convert",
            f"convert adapter {source.name}",
            source.name,
            {"domain": source.name, "base_name": str(model.params["name"]), "base_sha256": model.key},
            {"base": model, "adapter": sliced},
            **shared,
        )

    def _weights(
        self,
        plan: Plan,
        name: str,
        base: str,
        model: PlannedJob,
        sources: Sequence[DomainSource],
        phase: int | None,
        domain: str | None = None,
        after: Sequence[PlannedJob] = (),
    ) -> ModelWeights:
        """A model folder and its F16 file, which is made once the jobs `after` are done."""
        whole = self._add(
            plan,
            "convert",
            f"convert {name} to GGUF",
            f"{name}-F16",
            {"name": name},
            {"model": model},
            bases=(base,),
            phase=phase,
            domain=domain,
            after=after,
        )
        return ModelWeights(name, model, whole, sources, phase, domain)
