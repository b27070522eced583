"""Fits what a follow-up counts: the numbers of core/routing/conversation.py, which are written there by hand.

Rows are the later turns of benchmarks/data/routing_conversations_develop.jsonl, each after the right domain of the turn
before it, and every message of the router's development sets after one of another domain, as a change of topic. The
blend's scores stay as they are; fitted is how many log-odds the message before adds to its domain, by maximum
likelihood of the right domain; turns that stay, changes of topic and messages of no domain count the same. The figures
shown are cross-validated. The test set is not read. Usage: PYTHONPATH=. python benchmarks/fit_conversation.py
"""

import json
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from fit_router import DEVELOP, ROOT, Set
from torch.nn.functional import softplus

from core.catalog import load_catalog
from core.encoder import Encoder, find_encoder
from core.encoder.remembered import RememberingEncoder
from core.routing.blend import NONE_SIGNS, SIGNS, shipped_blend
from core.routing.conversation import AGAINST_NONE, TIE, Before, tie_signs
from core.routing.vectors import Embedding
from core.routing.words import split_words
from core.workspace import Workspace

TALKS = ROOT / "benchmarks" / "data" / "routing_conversations_develop.jsonl"
FOLDS = 10
SEED = 1
SHARES = (1.0, 0.3, 0.7, 1.0)  # of the kinds of turns, in their order
RIDGE = 0.1


@dataclass
class Turns:
    """Later turns: `scores` [n, domains + 1], the last that of none; `signs` [n, signs of a follow-up]; `before` [n];
    `right` [n, domains + 1], true for every domain that would be right."""

    scores: Any
    signs: Any
    before: Any
    right: Any
    talks: Any  # [n], true for turns of the conversations

    def kinds(self) -> dict[str, Any]:
        """Which of them stay with the domain before, which change to another, which to none."""
        stays, outside = self.right[np.arange(len(self.before)), self.before], self.right[:, -1]
        changes = ~stays & ~outside
        return {
            "turns that stay": stays,
            "changes of topic": changes & self.talks,
            "messages after another's": changes & ~self.talks,
            "to no domain": outside,
        }

    @property
    def weights(self) -> Any:
        """What each counts: turns that stay, all changes, and those to none the same in all."""
        found, kinds = np.zeros(len(self.before)), list(self.kinds().values())
        for those, share in zip(kinds, SHARES, strict=True):
            found[those] = kinds[0].sum() * share / max(1, those.sum())
        return found

    def part(self, keep: Any) -> "Turns":
        """Some of them."""
        return Turns(self.scores[keep], self.signs[keep], self.before[keep], self.right[keep], self.talks[keep])


def turns_of(domains: Set) -> Turns:
    """Both as the router reads them: the conversations first."""
    told = [json.loads(line)["turns"] for line in TALKS.read_text("utf-8").splitlines()]
    pairs = [pair for turns in told for pair in pairwise(turns) if pair[0]["domain"]]
    followed = len(pairs)
    messages = [json.loads(line) for path in DEVELOP for line in path.read_text("utf-8").splitlines()]
    chance = random.Random(SEED)
    inside = [message for message in messages if message["domain"]]
    for message in messages:
        others = [one for one in inside if one["domain"] not in (message["domain"], *message["acceptable"])]
        pairs.append((chance.choice(others), message))
    names, blend = domains.model.names, shipped_blend()
    weights = np.array([*(blend.weights[name] for name in SIGNS), *(blend.none[name] for name in NONE_SIGNS)])
    scores = domains.cases([after for _, after in pairs]).signs @ weights
    texts = [[domains.router.readable(one["text"]) for one in pair] for pair in pairs]
    identity = domains.encoder.identity
    first, then = (
        [Embedding(vector, identity) for vector in domains.encoder.embed([both[at] for both in texts])] for at in (0, 1)
    )
    signs = [
        tie_signs(split_words(after), Before(before, None, one), two)
        for (before, after), one, two in zip(texts, first, then, strict=True)
    ]
    wanted = [[one["domain"], *one["acceptable"]] if one["domain"] else [] for _, one in pairs]
    right = [[name in some for name in names] + [not some] for some in wanted]
    before = [names.index(one["domain"]) for one, _ in pairs]
    return Turns(scores, np.array(signs), np.array(before), np.array(right), np.arange(len(pairs)) < followed)


def fit(turns: Turns) -> Any:
    """The factors of the signs, in their order."""
    scores, signs, right = (torch.tensor(one, dtype=torch.float64) for one in (turns.scores, turns.signs, turns.right))
    weights, before = torch.tensor(turns.weights), torch.tensor(turns.before)
    factors = torch.zeros(signs.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([factors], max_iter=300, line_search_fn="strong_wolfe")

    def step() -> Any:
        optimiser.zero_grad()
        chances = torch.softmax(tied(scores, signs, before, factors), 1)
        loss = -(weights * torch.log((chances * right).sum(1) + 1e-12)).sum() + RIDGE / 2 * (factors**2).sum()
        loss.backward()
        return loss

    optimiser.step(step)
    return factors.detach().numpy()


def tied(scores: Any, signs: Any, before: Any, factors: Any, pointing: float = 0.0) -> Any:
    """The scores with what the conversation says, as `blend.read` adds it; `pointing` is the second of AGAINST_NONE,
    which is not fitted with."""
    ties = softplus(signs @ factors)
    added = torch.zeros_like(scores)
    added[torch.arange(len(scores)), before] = ties
    added[:, -1] = -ties * (AGAINST_NONE[0] + pointing * signs[:, 2])
    return scores + added


def right_ones(turns: Turns, factors: Any) -> Any:
    """Which turns come out right."""
    parts = (torch.tensor(one) for one in (turns.scores, turns.signs, turns.before, factors))
    first = tied(*parts, AGAINST_NONE[1]).argmax(1).numpy()
    return turns.right[np.arange(len(first)), first]


def main() -> None:
    """Fit and show."""
    file = find_encoder()
    assert file is not None
    workspace = Workspace(ROOT)
    first = [name for name, domain in load_catalog(workspace).domains.items() if domain.phase is not None]
    with Encoder(file) as running:
        turns = turns_of(Set(first, workspace, RememberingEncoder(running)))
    fold = np.arange(len(turns.before)) % FOLDS
    apart = np.zeros(len(fold), bool)
    for one in range(FOLDS):
        apart[fold == one] = right_ones(turns.part(fold == one), fit(turns.part(fold != one)))
    for name, right in (("cross-validated", apart), ("as shipped", right_ones(turns, np.array(TIE)))):
        told = (f"{right[those].sum()} of {those.sum()} {kind}" for kind, those in turns.kinds().items())
        print(f"{name}: right are {', '.join(told)}")
    print(f"TIE = ({', '.join(f'{one:.2f}' for one in fit(turns))})")


if __name__ == "__main__":
    main()
