"""The generation gate: whether a generated text shows a working model. Pure functions of text and tokens.

It asks little of quality and much of health: a text that is there, is not noise or a loop, and ends by itself. The
thresholds leave room for lists, tables and short answers; the tests hold real examples of both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from core.gguf.generation import ENDED

EMPTY = "empty"
DEGENERATE = "degenerate"
UNSTOPPED = "does not stop"

MIN_TOKENS = 6  # fewer tokens say nothing about repetition
MIN_DISTINCT = 0.2  # distinct tokens over tokens; the starter answers have 0.5 and more, a loop of ten words 0.04
NGRAM = 4
MIN_NGRAM_TOKENS = 24
MAX_REPEATED_NGRAMS = 0.5  # share of n-grams seen before; at most 0.06 in the starter answers, 0.02 in prose
MAX_PERIOD = 32
MIN_LOOP_TOKENS = 32
MIN_LOOP_TURNS = 4
MAX_RUN_SHARE = 0.3  # of the text in one run of the same character: a ruled line is fine, a text of dashes is not
MIN_RUN = 12
MAX_REPLACEMENTS = 0.02  # share of U+FFFD, bytes that were no UTF-8


@dataclass(frozen=True)
class GateFailure:
    """Which gate failed (`EMPTY`, `DEGENERATE`, `UNSTOPPED`) and what was seen."""

    gate: str
    reason: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.reason}"


def check_generation(text: str, tokens: Sequence[int], stopped_by: str) -> tuple[GateFailure, ...]:
    """All gates a greedy generation fails; none for a healthy one.

    `tokens` are the generated token ids, `stopped_by` is `eos` or `stop` when the model ended its turn, else `length`.
    """
    if not text.strip():
        found = [GateFailure(EMPTY, "nothing but white space was generated")]
    else:
        reason = degeneration(text, tokens)
        found = [GateFailure(DEGENERATE, reason)] if reason else []
    if stopped_by not in ENDED:
        found.append(GateFailure(UNSTOPPED, f"no end of turn within {len(tokens)} tokens"))
    return tuple(found)


def degeneration(text: str, tokens: Sequence[int]) -> str | None:
    """Why a text that is not empty is no language, or None when it is."""
    visible = "".join(text.split())
    if not any(character.isalnum() for character in visible):
        return "not a single letter or digit"
    broken = visible.count("\ufffd")
    if broken / len(visible) > MAX_REPLACEMENTS:
        return f"{broken} of {len(visible)} characters are not valid UTF-8"
    run = longest_run(visible)
    if run >= MIN_RUN and run / len(visible) > MAX_RUN_SHARE:
        return f"one character {run} times in a row"
    distinct = distinct_ratio(tokens)
    if len(tokens) >= MIN_TOKENS and distinct < MIN_DISTINCT:
        return f"{len(set(tokens))} different tokens in {len(tokens)}"
    repeated = repeated_ngram_share(tokens, NGRAM)
    if len(tokens) >= MIN_NGRAM_TOKENS and repeated > MAX_REPEATED_NGRAMS:
        return f"{repeated:.0%} of its {NGRAM}-token sequences are repetitions"
    loop = tail_loop(tokens)
    if loop:
        return f"it ends in a loop of {loop} tokens"
    return None


def longest_run(text: str) -> int:
    """Length of the longest run of one character."""
    longest = run = 0
    previous = ""
    for character in text:
        run = run + 1 if character == previous else 1
        previous = character
        longest = max(longest, run)
    return longest


def distinct_ratio(tokens: Sequence[int]) -> float:
    """Distinct tokens over tokens; 1.0 for none."""
    return len(set(tokens)) / len(tokens) if tokens else 1.0


def repeated_ngram_share(tokens: Sequence[int], n: int) -> float:
    """Share of the sequences of `n` tokens that occurred before; 0.0 when there is none."""
    ngrams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def tail_loop(tokens: Sequence[int]) -> int | None:
    """The period of the loop a sequence ends in, or None: the same up to 32 tokens, four times and more."""
    for period in range(1, MAX_PERIOD + 1):
        length = period
        while length < len(tokens) and tokens[-1 - length] == tokens[-1 - length + period]:
            length += 1
        if length >= max(MIN_LOOP_TOKENS, MIN_LOOP_TURNS * period):
            return period
    return None
