"""Plans of phases whose domains are merged: a model a domain, or one model for all domains of a base."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.catalog import Catalog
from core.phases.exporting import ExportPlanner
from core.phases.gating import Gate
from core.phases.kinds import UNIFIED
from core.phases.merging import Merging
from core.phases.planned import Compression, DomainSource, Parts, Plan, PlannedJob
from core.phases.shrinking import SHRINKING
from core.store.reads import Reader
from core.workspace import Workspace


class PhasePlanner(ExportPlanner):
    """A planner of whole phases, merged or not."""

    def __init__(self, workspace: Workspace, catalog: Catalog, reader: Reader, merging: Merging) -> None:
        super().__init__(workspace, catalog, reader)
        self._merging = merging

    def _fill(
        self,
        plan: Plan,
        parts: Parts,
        number: int,
        sources: Sequence[DomainSource],
        compression: Compression,
        gate: Gate | None,
    ) -> dict[str, PlannedJob]:
        """The files of the bundle. A base with a single domain has nothing to unify: it is merged exactly. A gate
        judges the domains of a unified model by that model."""
        if self._merging.mode == "none":
            return super()._fill(plan, parts, number, sources, compression, gate)
        taught = self._by_base(sources)
        parts.merge = {"mode": self._merging.mode}
        made = {source.name: self._evaluated(plan, source, number) for mine in taught.values() for source in mine}
        evaluations = {name: evaluation for name, (_, evaluation) in made.items()}
        adapters = {name: adapter for name, (adapter, _) in made.items()}
        unified = {
            base: self._unified(plan, number, base, mine, adapters, evaluations)
            for base, mine in taught.items()
            if self._merging.mode == "unified" and len(mine) > 1
        }
        checks = {base + UNIFIED: check for base, (_, check) in unified.items()}
        after = self._gated(plan, parts, number, gate, evaluations, checks)
        for base, mine in taught.items():
            if base in unified:
                self._accepted(plan, parts, number, base, mine, *unified[base], after, compression)
                continue
            for source in mine:
                weights = self._merged(plan, source, adapters[source.name], number, after)
                name = f"{base}+{source.name}"
                self._put(plan, parts, name, weights, compression)
                if compression.technique not in SHRINKING:  # what is pruned changes by more than rounding
                    self._kept_change(plan, source, adapters[source.name], weights, parts.ggufs[name])
        return evaluations

    def _unified(
        self,
        plan: Plan,
        number: int,
        base: str,
        sources: Sequence[DomainSource],
        adapters: Mapping[str, PlannedJob],
        evaluations: Mapping[str, PlannedJob],
    ) -> tuple[PlannedJob, PlannedJob]:
        """One model of a base, and what it loses of each domain."""
        name, method = base + UNIFIED, self._merging.method
        assert method is not None
        names = [source.name for source in sources]
        model = self._add(
            plan,
            "unify",
            f"unify {base} by {method}",
            name,
            {"name": name, "base_name": base, **self._recipe(names)},
            {"base": self._base(plan, base, number), "adapters": {one: adapters[one] for one in names}},
            bases=(base,),
            phase=number,
        )
        check = self._add(
            plan,
            "check-merge",
            f"measure unified {base}",
            name,
            {
                "name": name,
                "method": method,
                "domains": {source.name: self._taught(source) for source in sources},
                "sequence_length": self.catalog.settings.evaluation_sequence_length,
            },
            {
                "model": model,
                "data": {source.name: self._data(source) for source in sources},
                "evaluations": {one: evaluations[one] for one in names},
            },
            bases=(base,),
            phase=number,
        )
        return model, check

    def _accepted(
        self,
        plan: Plan,
        parts: Parts,
        number: int,
        base: str,
        sources: Sequence[DomainSource],
        model: PlannedJob,
        check: PlannedJob,
        after: Sequence[PlannedJob],
        compression: Compression,
    ) -> None:
        """Put a unified model into the bundle. It is converted only once it was accepted, though the margin changes
        nothing of it."""
        name = base + UNIFIED
        margin = self._merging.margin_in(self.catalog.settings)
        accepted = self._add(
            plan,
            "accept-merge",
            f"accept unified {base}, margin {margin:.2%}",
            name,
            {"name": name, "base_name": base, "margin": margin},
            {"check": check},
            bases=(base,),
            phase=number,
        )
        weights = self._weights(plan, name, base, model, sources, number, after=(accepted, *after))
        self._put(plan, parts, name, weights, compression)
        parts.verdicts[name] = accepted
        assert parts.merge is not None
        parts.merge.setdefault("recipes", {})[name] = self._recipe([source.name for source in sources])

    def _recipe(self, names: Sequence[str]) -> dict[str, Any]:
        assert self._merging.method is not None
        return self.catalog.settings.recipe_dict(self._merging.method) | {"weights": dict.fromkeys(names, 1.0)}
