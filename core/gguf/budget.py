"""A type for each tensor under a budget of bytes: the mixture that errs least. Pure arithmetic.

The method is that of ggml-org/llama.cpp#15550: every tensor is judged alone by its weighted error in every type, and
one price of a byte, found by bisection, decides for all of them (a Lagrange multiplier, which finds the mixtures on the
lower convex hull). What is left of the budget is then spent where a byte buys most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import Refused

_HALVINGS = 100


@dataclass(frozen=True)
class Choice:
    """One type a tensor could have: bytes it would take, and the error it would cost (any unit, the same for all)."""

    type: str
    bytes: int
    error: float


@dataclass(frozen=True)
class Mixture:
    """The types chosen, their bytes and error in all."""

    types: dict[str, str]
    bytes: int
    error: float


def solve(choices: Mapping[str, Sequence[Choice]], budget: int) -> Mixture:
    """The types, by tensor, with the least error in at most `budget` bytes.

    Raises Refused with the smallest size there is where even that is over the budget.
    """
    smallest = {name: min(of, key=lambda choice: (choice.bytes, choice.error)) for name, of in choices.items()}
    least = sum(choice.bytes for choice in smallest.values())
    if least > budget:
        raise Refused(
            f"these tensors take {least / 1e6:.1f} MB in their smallest types, the budget is {budget / 1e6:.1f} MB",
            f"give at least {least / 1e6:.1f} MB for them",
        )
    low, high = 0.0, 1.0
    while _bytes(_at_price(choices, high)) > budget:
        high *= 2
        if high == float("inf"):  # errors so far apart that no price equals them: the smallest of all fits, as shown
            return _mixture(smallest)
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        if _bytes(_at_price(choices, price)) > budget:
            low = price
        else:
            high = price
    return _mixture(_spend(choices, _at_price(choices, high), budget))


def _at_price(choices: Mapping[str, Sequence[Choice]], price: float) -> dict[str, Choice]:
    return {
        name: min(of, key=lambda choice: (choice.error + price * choice.bytes, choice.bytes))
        for name, of in choices.items()
    }


def _spend(choices: Mapping[str, Sequence[Choice]], chosen: dict[str, Choice], budget: int) -> dict[str, Choice]:
    """Take the better types that what is left pays for, the best bargain first."""
    left = budget - _bytes(chosen)
    while True:
        bargains = [
            ((chosen[name].error - choice.error) / max(1, choice.bytes - chosen[name].bytes), name, choice)
            for name, of in choices.items()
            for choice in of
            if choice.error < chosen[name].error and choice.bytes - chosen[name].bytes <= left
        ]
        if not bargains:
            return chosen
        _, name, better = max(bargains, key=lambda bargain: (bargain[0], bargain[1]))
        left -= better.bytes - chosen[name].bytes
        chosen = chosen | {name: better}


def _bytes(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.bytes for choice in chosen.values())


def _mixture(chosen: Mapping[str, Choice]) -> Mixture:
    return Mixture(
        {name: choice.type for name, choice in chosen.items()},
        _bytes(chosen),
        sum(choice.error for choice in chosen.values()),
    )
