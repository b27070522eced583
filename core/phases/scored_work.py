"""How much there is to do in jobs that run files over text with the engine: floating-point operations, as in `work`.

Counted are the tokens of examples that the files read, forward, one after the other, and the weights that are rounded
on the way, each as many tokens as the engine reads in that time. A plain text (`measure --text`) is not counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.phases.example_tokens import answer_tokens, part, tokens_of
from core.training.data import Example

# How often all text is read: by the file and by what it is held against; by a mixture, its F16 parent and a plain file;
# by a small file and two plain ones; by the F16 base and by the quantized one with either adapter.
_READ = {"check-delivered": 1, "measure": 2, "hybrid": 3, "check-small": 3, "repair-adapter": 3}
_ROUNDED = {"hybrid": 2, "check-small": 2, "type-costs": 1}  # how often all weights are
SCORED = (*_READ, "type-costs")
_FORWARD = 2
# Tokens that are read in the time that a weight takes to be rounded: `quantize` took 20 ns a weight where a token took
# 18 ps.
_ROUNDING = 1100.0
# Operations in the time in which `type-costs` rounds to twelve types: at most 131,072 weights of each matrix, of which
# the embedded base and larger ones have two or three hundred.
_ERRORS = 1.1e12
_SPEED = 1500.0  # tokens, of the runs in which `measure` times a file
_GROUPS = 23  # of tensors, whose costs are measured one after the other: seven kinds in three bands, embedding, F16
_CALIBRATION = 256.0  # scored positions of each
_WINDOW = 512  # tokens of an example at most, as for the tasks (core.tasks.held_out), which load what a plan must not


def scored_work(
    kind: str, params: Mapping[str, Any], parameters: int, examples: Mapping[str, Sequence[Example]]
) -> float:
    """The work of a job of one of the kinds in `SCORED` on a base of so many parameters; `examples` by domain."""
    tokens = _ROUNDING * _ROUNDED.get(kind, 0)
    if kind == "type-costs":
        tokens += _GROUPS * _calibration(params, examples)
    else:
        # Beside a target size the next larger type is made and measured as well.
        more = kind == "hybrid" and params.get("target_bytes") is not None
        tokens += (_READ[kind] + more) * sum(_held_out(params, name, some) for name, some in examples.items())
        tokens += _ROUNDING * more + (_SPEED if kind == "measure" else 0.0)
    return _FORWARD * float(parameters) * tokens + (_ERRORS if kind == "type-costs" else 0.0)


def _length(params: Mapping[str, Any]) -> int:
    return min(_WINDOW, int(params["sequence_length"]))


def _held_out(params: Mapping[str, Any], domain: str, examples: Sequence[Example]) -> float:
    """Tokens of a domain's held-out examples, whole ones while their answers are within `max_tokens`."""
    taught = {**params, **params["domains"][domain]}
    chosen = part(taught, examples, held_out=True)
    found, left = 0.0, float(params["max_tokens"])
    for example, tokens in zip(chosen, tokens_of(chosen, taught, _length(params)), strict=True):
        left -= answer_tokens(example)
        if left < 0 and found:
            break
        found += tokens
    return found


def _calibration(params: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> float:
    """Tokens of as many training examples as have the scored positions that a group is probed on."""
    read = answers = 0.0
    for name, some in examples.items():
        taught = {**params, **params["domains"][name]}
        chosen = part(taught, some, held_out=False)
        read += sum(tokens_of(chosen, taught, _length(params)))
        answers += sum(map(answer_tokens, chosen))
    return read * min(1.0, _CALIBRATION / answers) if answers else 0.0
