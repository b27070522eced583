"""The plan of a phase: a graph of jobs, each keyed by the hash of what goes into it.

A job whose artifact of that key is there is done; a rerun runs the others. Keys are known before anything runs, because
an artifact's key stands for its content: same settings, same inputs, same result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.catalog import TrainingPreset
from core.catalog.bases import base_identity, locate
from core.errors import InvalidInput
from core.phases.compressing import CompressingPlanner, ModelWeights
from core.phases.planned import Compression, DomainSource, Parts, Plan, PlannedJob
from core.phases.prompts import verification_prompts
from core.training.data import split_examples


class Planner(CompressingPlanner):
    """Makes plans from the catalogue, the files on disk and the artifacts recorded."""

    # -- whole plans ---------------------------------------------------------------------------------------------

    def training(self, source: DomainSource, phase: int | None) -> Plan:
        """Train and evaluate one domain."""
        plan = Plan()
        self._evaluated(plan, source, phase)
        return plan

    def phase(self, number: int, sources: Sequence[DomainSource], compression: Compression) -> Plan:
        """The whole way of a phase up to its bundle."""
        if not sources:
            raise InvalidInput(f"phase {number} has no domains", f"tara add-domain {number} NAME")
        plan, parts = Plan(), Parts()
        evaluations = self._fill(plan, parts, number, sources, compression)
        domains = {one.name: {**self._domain_facts(one), "base": parts.answering[one.name]} for one in sources}
        prompts = {
            source.name: verification_prompts(domains[source.name]["example_question"], self._data(source))
            for source in sources
        }
        verified = self._verified(plan, number, domains, prompts, parts)
        bundle = self._packaged(plan, number, sources, domains, compression, verified, parts, evaluations)
        plan.bundle = bundle.key
        return plan

    def _fill(
        self, plan: Plan, parts: Parts, number: int, sources: Sequence[DomainSource], compression: Compression
    ) -> dict[str, PlannedJob]:
        """Put what a bundle is made of into the plan; the evaluations by domain."""
        evaluations: dict[str, PlannedJob] = {}
        taught = self._by_base(sources)
        shared = {source.name: base for base, mine in taught.items() for source in mine}
        for source in sources:
            adapter, evaluation = self._evaluated(plan, source, number)
            evaluations[source.name] = evaluation
            parts.adapters[source.name] = self._adapter_gguf(plan, source, adapter, number)
            base = shared[source.name]
            if base not in parts.ggufs:
                weights = self._weights(plan, base, base, self._base(plan, base, number), taught[base], number)
                self._put(plan, parts, base, weights, compression)
        return evaluations

    def _by_base(self, sources: Sequence[DomainSource]) -> dict[str, list[DomainSource]]:
        """The domains of each base, under the name it is first met by: names of the same files are one base."""
        named: dict[str, str] = {}
        found: dict[str, list[DomainSource]] = {}
        for source in sources:
            found.setdefault(named.setdefault(self._about(source.base)[1], source.base), []).append(source)
        return found

    def export(self, source: DomainSource, phase: int | None, quantization: str) -> Plan:
        """One merged GGUF of one domain; `F16` leaves it unquantized."""
        plan = Plan()
        adapter = self._adapter(plan, source, phase)
        weights = self._merged(plan, source, adapter, phase)
        if quantization != "F16":
            self._kept_change(plan, source, adapter, weights, self._quantized(plan, weights, quantization))
        return plan

    # -- single jobs ---------------------------------------------------------------------------------------------

    def _about(self, name: str) -> tuple[dict[str, Any], str]:
        """Facts and identity of a base, which must be on this machine."""
        if name not in self._bases:
            model = self.catalog.bases[name]
            located = locate(model, self.workspace)
            identity = base_identity(located)
            facts = {
                "name": name,
                "kind": located.kind,
                "hub_id": model.hub_id,
                "path": str(located.path),
                "gguf_file": located.gguf_file,
                "identity": identity,
                # Of the file itself, so that the job can check it; a folder's identity covers several files.
                "sha256": identity if located.gguf_file else None,
            }
            self._bases[name] = (facts, identity)
        return self._bases[name]

    def _base(self, plan: Plan, name: str, phase: int | None) -> PlannedJob:
        facts, identity = self._about(name)
        return self._add(
            plan,
            "base",
            f"prepare base {name}",
            name,
            {"base": facts},
            {},
            bases=(name,),
            phase=phase,
            # Where the base lies does not matter for what is made of it, only what it is.
            hashed={"name": name, "identity": identity},
        )

    def _adapter(self, plan: Plan, source: DomainSource, phase: int | None) -> PlannedJob:
        if source.adapter_path is not None:
            return self._imported(plan, source, phase)
        preset = self.preset_of(source).as_dict() if source.shaping is None else source.shaping["preset"]
        data = self._data(source)
        params = {**self._taught(source), "preset": preset}
        split_examples(self._read(data), params["seed"], params["held_out_fraction"])
        hashed = {name: value for name, value in preset.items() if name not in TrainingPreset.UNHASHED}
        return self._add(
            plan,
            "train",
            f"train {source.name}",
            source.name,
            params,
            {"base": self._base(plan, source.base, phase), "data": data},
            bases=(source.base,),
            phase=phase,
            domain=source.name,
            hashed={**params, "preset": hashed},
        )

    def _imported(self, plan: Plan, source: DomainSource, phase: int | None) -> PlannedJob:
        """An adapter from elsewhere, copied in and recorded when the domain was added: always done."""
        assert source.adapter_path is not None
        folder = self.workspace.absolute(source.adapter_path)
        key = next((key for key, path in self._recorded.items() if path == source.adapter_path), None)
        if key is None or not folder.is_dir():
            raise InvalidInput(
                f"the adapter of {source.name} is gone: {folder}",
                f"tara add-domain N {source.name} --adapter-path DIR gives it another",
            )
        self._base(plan, source.base, phase)
        job = PlannedJob("train", f"adapter of {source.name}", key, {}, {}, folder, domain=source.name, done=True)
        plan.jobs.setdefault(key, job)
        return job

    def _evaluated(self, plan: Plan, source: DomainSource, phase: int | None) -> tuple[PlannedJob, PlannedJob]:
        adapter = self._adapter(plan, source, phase)
        evaluation = self._add(
            plan,
            "evaluate",
            f"evaluate {source.name}",
            source.name,
            {**self._taught(source), "sequence_length": self.catalog.settings.evaluation_sequence_length},
            {"base": self._base(plan, source.base, phase), "adapter": adapter, "data": self._data(source)},
            bases=(source.base,),
            phase=phase,
            domain=source.name,
        )
        return adapter, evaluation

    def _adapter_gguf(self, plan: Plan, source: DomainSource, adapter: PlannedJob, phase: int | None) -> PlannedJob:
        base = self._base(plan, source.base, phase)
        return self._add(
            plan,
            "adapter-convert",
            f"convert adapter {source.name}",
            source.name,
            {"domain": source.name, "base_name": source.base, "base_sha256": self._bases[source.base][1]},
            {"base": base, "adapter": adapter},
            bases=(source.base,),
            phase=phase,
            domain=source.name,
        )

    def _merged(self, plan: Plan, source: DomainSource, adapter: PlannedJob, phase: int | None) -> ModelWeights:
        """A domain's adapter in its base's weights, and the F16 file of it."""
        base = self._base(plan, source.base, phase)
        merged = self._add(
            plan,
            "merge",
            f"merge {source.name} into {source.base}",
            f"{source.name}",
            {"domain": source.name},
            {"base": base, "adapter": adapter},
            bases=(source.base,),
            phase=phase,
            domain=source.name,
        )
        return self._weights(plan, source.name, source.base, merged, [source], phase, source.name)

    def _kept_change(
        self, plan: Plan, source: DomainSource, adapter: PlannedJob, weights: ModelWeights, small: PlannedJob
    ) -> None:
        """How much of a domain's change is left once it was merged and rounded; nothing waits for it."""
        matrix = self._importance(plan, weights)
        self._add(
            plan,
            "kept-change",
            f"measure what is left of {source.name}",
            f"{weights.name}",
            {"name": weights.name, "domain": source.name},
            {
                "gguf": small,
                "whole": weights.whole,
                "adapter": self._adapter_gguf(plan, source, adapter, weights.phase),
                **({"imatrix": matrix} if matrix is not None else {}),
            },
            bases=weights.bases,
            phase=weights.phase,
            domain=source.name,
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

    def _put(self, plan: Plan, parts: Parts, name: str, weights: ModelWeights, compression: Compression) -> None:
        """Put a model into a bundle under a name, made smaller, with the domains it serves."""
        gguf = self._compressed(plan, weights, compression)
        parts.models[name], parts.whole[name], parts.ggufs[name] = weights.model, weights.whole, gguf
        parts.bases[name] = weights.sources[0].base
        parts.answering |= {source.name: name for source in weights.sources}

    def _verified(
        self,
        plan: Plan,
        number: int,
        domains: Mapping[str, dict[str, Any]],
        prompts: Mapping[str, list[str]],
        parts: Parts,
    ) -> PlannedJob:
        wanted = {
            name: {"base": facts["base"], "prompt": prompts[name], "system_prompt": facts["system_prompt"]}
            for name, facts in domains.items()
        }
        return self._add(
            plan,
            "verify",
            f"verify phase {number}",
            f"phase-{number}",
            {"phase": number, "domains": wanted},
            {
                "bases": {name: {"gguf": parts.ggufs[name], "model": parts.models[name]} for name in parts.ggufs},
                "adapters": dict(parts.adapters),
            },
            bases=tuple(dict.fromkeys(parts.bases.values())),
            phase=number,
        )

    def _packaged(
        self,
        plan: Plan,
        number: int,
        sources: Sequence[DomainSource],
        domains: Mapping[str, dict[str, Any]],
        compression: Compression,
        verified: PlannedJob,
        parts: Parts,
        evaluations: Mapping[str, PlannedJob],
    ) -> PlannedJob:
        bases: dict[str, dict[str, Any]] = {
            name: {"sha256": self._bases[base][1]} for name, base in parts.bases.items()
        }
        merged: dict[str, Any] = {}
        if parts.merge is not None:
            merged = {"merge": parts.merge}
            for name, base in parts.bases.items():
                mine = [domain for domain, model in parts.answering.items() if model == name]
                bases[name] |= {"base": base, "domains": mine}
        return self._add(
            plan,
            "package",
            f"package phase {number}",
            f"phase-{number}",
            {
                "phase": number,
                "quantization": compression.quantization,
                **({} if compression.technique == "standard" else {"compression_type": compression.technique}),
                "domains": dict(domains),
                "bases": bases,
                "routing": self.catalog.settings.routing_dict(),
                "seed": self.catalog.settings.seed,
                "held_out_fraction": self.catalog.settings.held_out_fraction,
                "crisis": self.catalog.settings.crisis_dict(),
                **merged,
            },
            {
                "bases": dict(parts.ggufs),
                "unquantized": dict(parts.whole),
                "adapters": dict(parts.adapters),
                "evaluations": dict(evaluations),
                "verification": verified,
                "data": {source.name: self._data(source) for source in sources},
                **({"verdicts": dict(parts.verdicts)} if parts.verdicts else {}),
            },
            bases=tuple(dict.fromkeys(parts.bases.values())),
            phase=number,
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def preset_of(self, source: DomainSource) -> TrainingPreset:
        """The preset a domain is trained with."""
        return self.catalog.preset(source.preset or self.catalog.settings.preset)

    def _domain_facts(self, source: DomainSource) -> dict[str, Any]:
        domain = self.catalog.domain(source.name)
        return {
            "base": source.base,
            "title": domain.title,
            "description": domain.description,
            "keywords": list(domain.keywords),
            "emotional_profile": dict(domain.emotional_profile),
            "safety_tier": domain.safety_tier,
            "system_prompt": self._taught(source)["system_prompt"],
            "example_question": domain.example_question or f"What can you help me with in {domain.title}?",
        }
