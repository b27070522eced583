"""Plans of phases whose domains are merged: a model a domain, or one model for all domains of a base."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.catalog import Catalog
from core.phases.kinds import UNIFIED
from core.phases.merging import Merging
from core.phases.plan import Planner
from core.phases.planned import Compression, DomainSource, Parts, Plan, PlannedJob
from core.store.reads import Reader
from core.workspace import Workspace


class PhasePlanner(Planner):
    """A planner of whole phases, merged or not."""

    def __init__(self, workspace: Workspace, catalog: Catalog, reader: Reader, merging: Merging) -> None:
        super().__init__(workspace, catalog, reader)
        self._merging = merging

    def _fill(
        self, plan: Plan, parts: Parts, number: int, sources: Sequence[DomainSource], compression: Compression
    ) -> dict[str, PlannedJob]:
        """The files of the bundle. A base with a single domain has nothing to unify: it is merged exactly."""
        if self._merging.mode == "none":
            return super()._fill(plan, parts, number, sources, compression)
        evaluations: dict[str, PlannedJob] = {}
        parts.merge = {"mode": self._merging.mode}
        for base, mine in self._by_base(sources).items():
            made = {source.name: self._evaluated(plan, source, number) for source in mine}
            evaluations |= {name: evaluation for name, (_, evaluation) in made.items()}
            adapters = {name: adapter for name, (adapter, _) in made.items()}
            if self._merging.mode == "unified" and len(mine) > 1:
                self._unified(plan, parts, number, base, mine, adapters, evaluations, compression)
                continue
            for source in mine:
                weights = self._merged(plan, source, adapters[source.name], number)
                name = f"{base}+{source.name}"
                self._put(plan, parts, name, weights, compression)
                if parts.ggufs[name].kind in ("quantize", "hybrid"):  # others change more than they round
                    self._kept_change(plan, source, adapters[source.name], weights, parts.ggufs[name])
        return evaluations

    def _unified(
        self,
        plan: Plan,
        parts: Parts,
        number: int,
        base: str,
        sources: Sequence[DomainSource],
        adapters: Mapping[str, PlannedJob],
        evaluations: Mapping[str, PlannedJob],
        compression: Compression,
    ) -> None:
        """One model of a base; it is converted only once it was accepted, though the margin changes nothing of it."""
        name, method = base + UNIFIED, self._merging.method
        assert method is not None
        names = [source.name for source in sources]
        recipe = self.catalog.settings.recipe_dict(method) | {"weights": dict.fromkeys(names, 1.0)}
        shared: dict[str, Any] = {"bases": (base,), "phase": number}
        model = self._add(
            plan,
            "unify",
            f"unify {base} by {method}",
            name,
            {"name": name, "base_name": base, **recipe},
            {"base": self._base(plan, base, number), "adapters": {one: adapters[one] for one in names}},
            **shared,
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
            **shared,
        )
        margin = self._merging.margin_in(self.catalog.settings)
        accepted = self._add(
            plan,
            "accept-merge",
            f"accept unified {base}, margin {margin:.2%}",
            name,
            {"name": name, "base_name": base, "margin": margin},
            {"check": check},
            **shared,
        )
        weights = self._weights(plan, name, base, model, sources, number, after=(accepted,))
        self._put(plan, parts, name, weights, compression)
        parts.verdicts[name] = accepted
        assert parts.merge is not None
        parts.merge.setdefault("recipes", {})[name] = recipe
