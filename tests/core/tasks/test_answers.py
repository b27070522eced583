"""How many of the questions a model is verified by must be answered, and what is said of them. A scripted runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from core.chat.protocol import SamplingOptions
from core.gguf.sampling import Sampling
from core.tasks.answers import AS_IN_CHAT, MAX_TOKENS, Answers, ask_all

GOOD, LOOP, EMPTY, ENDLESS = "good", "loop", "empty", "endless"
AGAIN = "temperature 0.7, seed 0"


@dataclass
class Scripted:
    """Says what the script has for a question: its greedy answer, then the one as in chat."""

    script: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        self.asked: list[tuple[str, Sampling | None]] = []
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1

    def generate(self, tokens: list[str], *, max_tokens: int, sampling: Sampling | None) -> Any:
        assert max_tokens == MAX_TOKENS
        (question,) = tokens
        self.asked.append((question, sampling))
        kind = self.script[question][sampling is not None]
        ids = {GOOD: range(40), LOOP: [1, 2] * 40, EMPTY: [7], ENDLESS: range(MAX_TOKENS)}[kind]
        text, stopped = " " if kind == EMPTY else f"A {kind} text.", "length" if kind == ENDLESS else "eos"

        class Answer:
            def finish(self) -> Any:
                return self

        answer = Answer()
        vars(answer).update(
            text=text, tokens=list(ids), stopped_by=stopped, prompt_tokens=1, reused_tokens=0, first_token_s=0.1,
            tokens_per_s=10.0,
        )  # fmt: skip
        return answer


def answers(*script: tuple[str, ...]) -> tuple[Answers, Scripted]:
    runtime = Scripted({f"question {number}": kinds for number, kinds in enumerate(script)})
    return ask_all(runtime, {question: [question] for question in runtime.script}), runtime  # type: ignore[arg-type,misc]


def test_all_are_asked_also_where_the_first_passes() -> None:
    found, runtime = answers((GOOD,), (GOOD,), (GOOD,))
    assert [question for question, _ in runtime.asked] == ["question 0", "question 1", "question 2"]
    assert runtime.forgotten == 3
    assert (found.line, found.fault) == ("3 of 3 answers passed", None)
    assert found.counts() == {"asked": 3, "passed": 3, "passed_again": 0, "needed": 2}
    assert (found.best.prompt, found.best.chosen) == ("question 0", "greedy")


@pytest.mark.parametrize("bad", [LOOP, EMPTY, ENDLESS])
def test_one_that_passes_does_not_make_up_for_two_that_do_not(bad: str) -> None:
    found, _ = answers((bad, bad), (bad, bad), (GOOD,))
    assert found.line == "1 of 3 answers passed"
    assert found.fault is not None
    assert found.fault.startswith("1 of 3 answers passed, 2 must: greedy, ")
    assert found.fault.count("greedy, ") == found.fault.count(f"{AGAIN}, ") == 2
    assert answers((bad, bad), (GOOD,), (GOOD,))[0].fault is None
    assert answers((bad, bad))[0].fault is not None
    assert answers((bad, bad), (GOOD,))[0].fault is not None  # of two, most are both


def test_a_question_whose_greedy_answer_fails_is_asked_again_as_in_chat() -> None:
    found, runtime = answers((LOOP, GOOD), (ENDLESS, ENDLESS), (GOOD,))
    assert [sampling for _, sampling in runtime.asked] == [None, AS_IN_CHAT, None, AS_IN_CHAT, None]
    assert found.line == "2 of 3 answers passed, 1 of them when asked again as in chat"
    assert found.fault is None
    assert found.best.chosen == AGAIN
    told = found.as_dict()["attempts"]
    assert [(one["prompt"], one["chosen"], bool(one["failures"])) for one in told] == [
        ("question 0", "greedy", True), ("question 0", AGAIN, False), ("question 1", "greedy", True),
        ("question 1", AGAIN, True), ("question 2", "greedy", False),
    ]  # fmt: skip
    assert found.attempts[0].line.startswith("'question 0', greedy: degenerate: ")
    assert found.attempts[0].line.endswith(", 80 tokens")


def test_asked_again_is_as_chat_asks() -> None:
    """But with a seed that is always the same, so that a verification can be repeated."""
    chat = SamplingOptions()
    assert Sampling(chat.temperature, chat.top_k, chat.top_p, chat.min_p, seed=0) == AS_IN_CHAT
