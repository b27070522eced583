"""The plan of a phase: a graph of jobs, each keyed by the hash of what goes into it.

A job whose artifact of that key is there is done; a rerun runs the others. Keys are known before anything runs, because
an artifact's key stands for its content: same settings, same inputs, same result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.catalog import TrainingPreset
from core.catalog.bases import base_identity, locate
from core.catalog.examples import example_files
from core.encoder.client import Encoder, configured_encoder
from core.errors import EnvironmentLacks, InvalidInput
from core.phases.compressing import HELD_OUT_TOKENS, ModelWeights
from core.phases.gating import Gate
from core.phases.planned import Compression, DomainSource, Parts, Plan, PlannedJob
from core.phases.prompts import verification_prompts
from core.phases.repairing import RepairingPlanner
from core.phases.shrinking import SHRINKING
from core.training.data import split_examples


class Planner(RepairingPlanner):
    """Makes plans from the catalogue, the files on disk and the artifacts recorded."""

    # -- whole plans ---------------------------------------------------------------------------------------------

    def training(self, source: DomainSource, phase: int | None) -> Plan:
        """Train and evaluate one domain."""
        plan = Plan()
        self._evaluated(plan, source, phase)
        return plan

    def phase(
        self, number: int, sources: Sequence[DomainSource], compression: Compression, gate: Gate | None = None
    ) -> Plan:
        """The whole way of a phase up to its bundle. A `gate` is passed twice: nothing is converted where a domain is
        below it as it was trained, and nothing is packaged where one is below it as it will be delivered."""
        if not sources:
            raise InvalidInput(f"phase {number} has no domains", f"tara add-domain {number} NAME")
        plan, parts = Plan(), Parts()
        evaluations = self._fill(plan, parts, number, sources, compression, gate)
        domains = {one.name: {**self._domain_facts(one), "base": parts.answering[one.name]} for one in sources}
        prompts = {
            source.name: verification_prompts(domains[source.name]["example_question"], self._data(source))
            for source in sources
        }
        verified = self._verified(plan, number, domains, prompts, parts)
        if gate is not None:
            self._gated_as_delivered(plan, parts, number, sources, gate)
        bundle = self._packaged(plan, number, sources, domains, compression, verified, parts, evaluations)
        plan.bundle = bundle.key
        return plan

    def _fill(
        self,
        plan: Plan,
        parts: Parts,
        number: int,
        sources: Sequence[DomainSource],
        compression: Compression,
        gate: Gate | None,
    ) -> dict[str, PlannedJob]:
        """Put what a bundle is made of into the plan; the evaluations by domain."""
        taught = self._by_base(sources)
        shared = {source.name: base for base, mine in taught.items() for source in mine}
        made = {source.name: self._evaluated(plan, source, number) for source in sources}
        trained = {name: adapter for name, (adapter, _) in made.items()}
        evaluations = {name: evaluation for name, (_, evaluation) in made.items()}
        after = self._gated(plan, parts, number, gate, evaluations)
        for source in sources:
            parts.adapters[source.name] = self._adapter_gguf(plan, source, trained[source.name], number, after)
            base, mine = shared[source.name], taught[shared[source.name]]
            # Of what parts are taken out, these follow from the adapters of all domains, and a repair goes into each:
            # it waits for the last.
            ready = source is mine[-1] or not (compression.technique in SHRINKING or compression.repair)
            if base not in parts.ggufs and ready:
                weights = self._weights(plan, base, base, self._base(plan, base, number), mine, number, after=after)
                adapters = {one.name: trained[one.name] for one in mine}
                self._put(plan, parts, base, weights, compression, adapters)
        return evaluations

    def _by_base(self, sources: Sequence[DomainSource]) -> dict[str, list[DomainSource]]:
        """The domains of each base, under the name it is first met by: names of the same files are one base."""
        named: dict[str, str] = {}
        found: dict[str, list[DomainSource]] = {}
        for source in sources:
            found.setdefault(named.setdefault(self._about(source.base)[1], source.base), []).append(source)
        return found

    def _gated(
        self,
        plan: Plan,
        parts: Parts,
        number: int,
        gate: Gate | None,
        evaluations: Mapping[str, PlannedJob],
        checks: Mapping[str, PlannedJob] | None = None,
    ) -> tuple[PlannedJob, ...]:
        """The job that what comes next waits for, where there is a gate. `checks` are those of the unified models."""
        if gate is None:
            return ()
        inputs = {"evaluations": dict(evaluations), **({"checks": dict(checks)} if checks else {})}
        bases = tuple(dict.fromkeys(base for job in evaluations.values() for base in job.bases))
        return (self._gate(plan, number, gate, f"quality of phase {number}", inputs, bases),)

    def _gate(
        self, plan: Plan, number: int, gate: Gate, what: str, inputs: Mapping[str, Any], bases: tuple[str, ...]
    ) -> PlannedJob:
        counted = {"threshold": gate.threshold, "override": gate.override}
        return self._add(
            plan,
            "quality-gate",
            f"{what}, at least {gate.threshold:g}",
            f"phase-{number}",
            {"phase": number, "name": what, **counted, "declared": gate.declared},
            inputs,
            bases=bases,
            phase=number,
            hashed=counted,
        )

    def _gated_as_delivered(
        self, plan: Plan, parts: Parts, number: int, sources: Sequence[DomainSource], gate: Gate
    ) -> None:
        """Measure the files and adapters of the bundle, and hold that against the gate as well."""
        bases = tuple(dict.fromkeys(parts.bases.values()))
        parts.delivered = self._add(
            plan,
            "check-delivered",
            f"measure what phase {number} delivers",
            f"phase-{number}",
            {
                "phase": number,
                "answering": dict(parts.answering),
                "domains": self._divided_by_domain(sources),
                "sequence_length": self.catalog.settings.evaluation_sequence_length,
                "max_tokens": HELD_OUT_TOKENS,
            },
            {
                "bases": {name: {"gguf": parts.ggufs[name], "model": parts.models[name]} for name in parts.ggufs},
                "adapters": dict(parts.adapters),
                "data": {source.name: self._data(source) for source in sources},
            },
            bases=bases,
            phase=number,
        )
        inputs = {"delivered": parts.delivered}
        parts.gate = self._gate(plan, number, gate, f"quality of phase {number} as delivered", inputs, bases)

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

    def _adapter_gguf(
        self,
        plan: Plan,
        source: DomainSource,
        adapter: PlannedJob,
        phase: int | None,
        after: Sequence[PlannedJob] = (),
    ) -> PlannedJob:
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
            after=after,
        )

    def _merged(
        self,
        plan: Plan,
        source: DomainSource,
        adapter: PlannedJob,
        phase: int | None,
        after: Sequence[PlannedJob] = (),
    ) -> ModelWeights:
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
            after=after,
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

    def _put(
        self,
        plan: Plan,
        parts: Parts,
        name: str,
        weights: ModelWeights,
        compression: Compression,
        adapters: Mapping[str, PlannedJob] | None = None,
    ) -> None:
        """Put a model into a bundle under a name, made smaller, with the domains it serves; `adapters` are theirs as
        folders, where a technique changes them too. Its whole F16 file is what the bundle's size is held against."""
        parts.whole[name] = weights.whole
        if compression.technique in SHRINKING:
            files = {domain: parts.adapters[domain] for domain in adapters or {}}
            small = self._small(plan, weights, adapters or {}, files, compression)
            parts.models[name], parts.ggufs[name], parts.checks[name] = small.weights.model, small.gguf, small.check
            parts.adapters |= small.adapters
            weights = small.weights
        else:
            parts.models[name], parts.ggufs[name] = weights.model, self._compressed(plan, weights, compression)
            if compression.repair:
                identity = self._bases[weights.sources[0].base][1]
                parts.adapters |= self._repaired(plan, weights, parts.ggufs[name], parts.adapters, identity)
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
            name: {"sha256": parts.models[name].key if name in parts.checks else self._bases[base][1]}
            for name, base in parts.bases.items()
        }
        merged: dict[str, Any] = {}
        if parts.merge is not None:
            merged = {"merge": parts.merge}
            for name, base in parts.bases.items():
                mine = [domain for domain, model in parts.answering.items() if model == name]
                bases[name] |= {"base": base, "domains": mine}
        encoder = self._encoder()
        params = {
            "phase": number,
            "quantization": compression.quantization,
            **({} if compression.technique == "standard" else {"compression_type": compression.technique}),
            **({"repair": True} if compression.repair else {}),
            "domains": dict(domains),
            "bases": bases,
            "routing": self.catalog.settings.routing_dict(),
            "seed": self.catalog.settings.seed,
            "held_out_fraction": self.catalog.settings.held_out_fraction,
            "crisis": self.catalog.settings.crisis_dict(),
            **merged,
        }
        return self._add(
            plan,
            "package",
            f"package phase {number}",
            f"phase-{number}",
            {
                **params,
                "encoder": str(encoder.gguf) if encoder is not None else None,
            },
            {
                "examples": example_files(self.workspace),
                "bases": dict(parts.ggufs),
                "unquantized": dict(parts.whole),
                "adapters": dict(parts.adapters),
                "evaluations": dict(evaluations),
                "verification": verified,
                "data": {source.name: self._data(source) for source in sources},
                **({"verdicts": dict(parts.verdicts)} if parts.verdicts else {}),
                **({"checks": dict(parts.checks)} if parts.checks else {}),
                **({"gate": parts.gate} if parts.gate is not None else {}),
                **({"delivered": parts.delivered} if parts.delivered is not None else {}),
            },
            bases=tuple(dict.fromkeys(parts.bases.values())),
            phase=number,
            hashed={**params, "encoder": encoder.identity if encoder is not None else None},
        )

    def _encoder(self) -> Encoder | None:
        """The sentence encoder whose vectors the bundle holds; None where there is none, and messages are routed by
        keywords until there is."""
        try:
            return configured_encoder(self.catalog.settings.encoder)
        except EnvironmentLacks:
            return None

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
