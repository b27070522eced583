"""Fits what a follow-up counts: the numbers of core/routing/conversation.py, which are written there by hand.

Rows are the later turns of benchmarks/data/routing_conversations_develop.jsonl, each after the right domain of the turn
before it. The blend's scores stay as they are; fitted is how many log-odds the message before adds to its domain, by
maximum likelihood of the right domain, with changes of topic counting as much in all as turns that stay. The figures
shown are cross-validated. The test set is not read. Usage: PYTHONPATH=. python benchmarks/fit_conversation.py
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fit_router import ROOT, Set
from torch.nn.functional import softplus

from core.catalog import load_catalog
from core.encoder import Encoder, find_encoder
from core.encoder.remembered import RememberingEncoder
from core.routing.blend import NONE_SIGNS, SIGNS, TIE_AGAINST_NONE, shipped_blend
from core.routing.conversation import TIE, Before, tie_signs
from core.routing.vectors import Embedding
from core.routing.words import split_words
from core.workspace import Workspace

DEVELOP = ROOT / "benchmarks" / "data" / "routing_conversations_develop.jsonl"
FOLDS = 10
RIDGE = 0.1


@dataclass
class Turns:
    """Later turns: `scores` [n, domains + 1], the last that of none; `signs` [n, signs of a follow-up]; `before` [n];
    `right` [n, domains + 1], true for every domain that would be right."""

    scores: Any
    signs: Any
    before: Any
    right: Any

    @property
    def stays(self) -> Any:
        """Which of them stay with the domain before."""
        return self.right[np.arange(len(self.before)), self.before]

    def part(self, keep: Any) -> "Turns":
        """Some of them."""
        return Turns(self.scores[keep], self.signs[keep], self.before[keep], self.right[keep])


def turns_of(domains: Set) -> Turns:
    """The development set as the router reads it."""
    names, blend = domains.model.names, shipped_blend()
    weights = np.array([*(blend.weights[name] for name in SIGNS), *(blend.none[name] for name in NONE_SIGNS)])
    scores, signs, before, right = [], [], [], []
    for line in DEVELOP.read_text("utf-8").splitlines():
        turns = json.loads(line)["turns"]
        texts = [domains.router.readable(turn["text"]) for turn in turns]
        vectors = [Embedding(vector, domains.encoder.identity) for vector in domains.encoder.embed(texts)]
        of_turns = domains.cases(turns).signs @ weights
        for at, turn in enumerate(turns):
            if at and turns[at - 1]["domain"]:
                scores.append(of_turns[at])
                signs.append(
                    tie_signs(split_words(texts[at]), Before(texts[at - 1], None, vectors[at - 1]), vectors[at])
                )
                before.append(names.index(turns[at - 1]["domain"]))
                wanted = [name for name in (turn["domain"], *turn["acceptable"]) if name]
                right.append([name in wanted for name in names] + [not wanted])
    return Turns(np.array(scores), np.array(signs), np.array(before), np.array(right))


def fit(turns: Turns) -> Any:
    """The factors of the signs, in their order."""
    scores, signs, right = (torch.tensor(one, dtype=torch.float64) for one in (turns.scores, turns.signs, turns.right))
    stays = torch.tensor(turns.stays)
    weights = torch.where(stays, 1.0, stays.sum() / (~stays).sum())
    factors = torch.zeros(signs.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([factors], max_iter=300, line_search_fn="strong_wolfe")

    def step() -> Any:
        optimiser.zero_grad()
        chances = torch.softmax(tied(scores, softplus(signs @ factors), torch.tensor(turns.before)), 1)
        loss = -(weights * torch.log((chances * right).sum(1) + 1e-12)).sum() + RIDGE / 2 * (factors**2).sum()
        loss.backward()
        return loss

    optimiser.step(step)
    return factors.detach().numpy()


def tied(scores: Any, ties: Any, before: Any) -> Any:
    """The scores with what the conversation says, as `blend.read` adds it."""
    added = torch.zeros_like(scores)
    added[torch.arange(len(scores)), before] = ties
    added[:, -1] = -TIE_AGAINST_NONE * ties
    return scores + added


def right_ones(turns: Turns, factors: Any) -> Any:
    """Which turns come out right."""
    scores, ties = torch.tensor(turns.scores), softplus(torch.tensor(turns.signs @ factors))
    first = tied(scores, ties, torch.tensor(turns.before)).argmax(1).numpy()
    return turns.right[np.arange(len(first)), first]


def main() -> None:
    """Fit and show."""
    file = find_encoder()
    assert file is not None
    workspace = Workspace(ROOT)
    first = [name for name, domain in load_catalog(workspace).domains.items() if domain.phase is not None]
    with Encoder(file) as running:
        turns = turns_of(Set(first, workspace, RememberingEncoder(running)))
    fold = np.arange(len(turns.before)) * FOLDS // len(turns.before)
    apart = np.zeros(len(fold), bool)
    for one in range(FOLDS):
        apart[fold == one] = right_ones(turns.part(fold == one), fit(turns.part(fold != one)))
    stays = turns.stays
    for name, right in (("cross-validated", apart), ("as shipped", right_ones(turns, np.array(TIE)))):
        followed = f"{right[~stays].sum()} of {(~stays).sum()} changes of topic"
        print(f"{name}: right are {right[stays].sum()} of {stays.sum()} turns that stay, {followed}")
    print("TIE = (" + ", ".join(f"{one:.2f}" for one in fit(turns)) + ")")


if __name__ == "__main__":
    main()
