"""Plans of exports: one merged file of a single domain, loaded and tried like those of a bundle."""

from core.errors import InvalidInput
from core.phases.compressing import ModelWeights
from core.phases.plan import Planner
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.phases.prompts import verification_prompts


class ExportPlanner(Planner):
    """A planner that also knows what an export takes."""

    def export(self, source: DomainSource, phase: int | None, quantization: str) -> Plan:
        """One merged GGUF of one domain, loaded and tried; `F16` leaves it unquantized."""
        plan = Plan()
        adapter = self._adapter(plan, source, phase)
        weights = self._merged(plan, source, adapter, phase)
        made = weights.whole if quantization == "F16" else self._quantized(plan, weights, quantization)
        self._verified_export(plan, source, weights, made, quantization)
        if quantization != "F16":
            self._kept_change(plan, source, adapter, weights, made)
        return plan

    def _verified_export(
        self, plan: Plan, source: DomainSource, weights: ModelWeights, made: PlannedJob, quantization: str
    ) -> PlannedJob:
        """The file that is exported, tried as those of a bundle are; its domain is part of it."""
        name, facts = f"{source.name}-{quantization}", self._domain_facts(source)
        prompts = self._prompts(source, facts["example_question"])
        wanted = {"base": weights.name, "prompt": prompts, "system_prompt": facts["system_prompt"]}
        return self._add(
            plan,
            "verify",
            f"verify export {name}",
            name,
            {"phase": weights.phase, "export": name, "type": quantization, "domains": {source.name: wanted}},
            {"bases": {weights.name: {"gguf": made, "model": weights.model}}, "adapters": {}},
            bases=weights.bases,
            phase=weights.phase,
            domain=source.name,
        )

    def _prompts(self, source: DomainSource, question: str) -> list[str]:
        """What a domain is asked when its export is verified."""
        try:
            data = self._data(source)
        except InvalidInput:
            if source.adapter_path is None or source.data_path is not None:
                raise
            return [question]  # an adapter from elsewhere may come without data
        return verification_prompts(question, data)
