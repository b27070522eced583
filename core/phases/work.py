"""How much there is to do in a job, as one number, so that the seconds of one can be scaled to another of its kind.

For `train` and `evaluate` the number is of floating-point operations: tokens times parameters times 6 forward and
backward, 2 forward only (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); each held-out example is scored with and
without the adapter, and for `imatrix` and `teach` tokens are read forward, for `prune` over and over. `check-merge`
scores all domains' held-out examples once. For jobs that run files over text with the engine see `scored_work`. For
`verify` and `unify` it is parameters times domains, for `package` the parameters of the base, and the texts that the
sentence encoder has to read, for every other kind the parameters of the base.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.phases.example_tokens import part, tokens_of
from core.phases.scored_work import SCORED, scored_work
from core.training.data import Example

STUDENTS = {"heal": 1, "distil": 2}  # kinds that teach a small model, and how many of them
PASSES = 40.0  # over the text while layers are left out in turn: about six for each of those that go
TRAINED, FORWARD, COMPARED = 6, 2, 2 * 2
# Parameters that are packaged in the time in which the sentence encoder reads a message and its share of the other
# texts: 15 ms. Of the five starter domains 1,149 messages are counted; with the rest they were read in 17 seconds.
READING = 9.7e6


def work_of(
    kind: str,
    params: Mapping[str, Any],
    parameters: int,
    examples: Sequence[Example] | Mapping[str, Sequence[Example]] = (),
    unread: int = 0,
) -> float:
    """The work of a job on a base of so many parameters; `examples` are those of its data, undivided; by domain
    where it has several. `unread` texts are to be read by the sentence encoder."""
    if kind in SCORED:
        assert isinstance(examples, Mapping)
        return scored_work(kind, params, parameters, examples)
    if isinstance(examples, Mapping) and kind in STUDENTS:
        taught = [
            count
            for name, some in examples.items()
            for count in tokens_of(
                part(params["domains"][name], some, held_out=False), params["domains"][name], params["sequence_length"]
            )
        ]
        mean = sum(taught) / len(taught) if taught else 0.0
        times = STUDENTS[kind] * int(params["steps"]) * int(params["batch_size"])
        return TRAINED * float(parameters) * mean * times
    if isinstance(examples, Mapping):
        assert kind == "check-merge"
        length = params["sequence_length"]
        scored = [
            tokens_of(part(params["domains"][name], some, held_out=True), params["domains"][name], length)
            for name, some in examples.items()
        ]
        return FORWARD * float(parameters) * sum(map(sum, scored))
    if kind == "train":
        preset = params["preset"]
        tokens = tokens_of(part(params, examples, held_out=False), params, int(preset["sequence_length"]))
        step = int(preset["batch_size"]) * int(preset["gradient_accumulation"])
        seen = min(len(tokens) * int(preset["epochs"]), int(preset["max_steps"]) * step)
        mean = sum(tokens) / len(tokens) if tokens else 0.0
        return TRAINED * float(parameters) * mean * seen
    if kind == "evaluate":
        tokens = tokens_of(part(params, examples, held_out=True), params, int(params["sequence_length"]))
        return COMPARED * float(parameters) * sum(tokens)
    if kind == "prune":
        return FORWARD * float(parameters) * int(params["tokens"]) * PASSES
    if kind in ("imatrix", "teach"):
        return FORWARD * float(parameters) * int(params["tokens"])
    if kind == "package":
        return float(parameters) + READING * unread
    if kind == "unify":
        return float(parameters) * len(params["weights"])
    if kind == "verify":
        return float(parameters) * len(params["domains"])
    return float(parameters)
