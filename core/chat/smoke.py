"""Asking a canned set and judging the answers by its rules. What is asked and the rules come from the catalog."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.catalog.smoke import SmokePrompt
from core.chat.client import Done
from core.chat.protocol import EngineError, SamplingOptions
from core.chat.session import Conversation, Notice, Turn
from core.gguf.gate import degeneration
from core.gguf.generation import ENDED

TEMPLATE_TOKENS = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
KEPT_CHARACTERS = 300  # of an answer, in the report


@dataclass(frozen=True)
class Result:
    """One prompt's answer, and the rules it broke in words; none for a pass. The time to the first token leaves loading
    out. `asked`: the domain it was asked of, or that the router had to choose."""

    asked: str
    name: str
    prompt: str
    answered: str | None  # who did; None is the base without an adapter
    answer: str
    broken: tuple[str, ...]
    tokens: int
    tokens_per_s: float | None
    first_token_s: float | None
    stopped_by: str | None

    @property
    def passed(self) -> bool:
        """Whether all rules hold."""
        return not self.broken


def run(
    conversation: Conversation,
    sets: Mapping[str, Sequence[SmokePrompt]],
    told: Callable[[Result, int, int], None] = lambda _result, _done, _all: None,
) -> list[Result]:
    """Ask every prompt of `sets` (by domain), greedily and each in a conversation of its own. `told` is given each
    result with how many there are of how many. An engine that fails is a broken rule, not an error."""
    total = sum(map(len, sets.values()))
    found: list[Result] = []
    for domain, prompts in sets.items():
        for prompt in prompts:
            conversation.reset()
            conversation.memory.forget()
            found.append(_ask(conversation, domain, prompt))
            told(found[-1], len(found), total)
    return found


def _ask(conversation: Conversation, domain: str, prompt: SmokePrompt) -> Result:
    sampling = SamplingOptions(prompt.max_tokens, temperature=0)
    # One answer of the chosen domain, not the better of two.
    turn = conversation.ask(prompt.prompt, None if prompt.routed else domain, sampling, both=False)
    helped = False
    try:
        for event in turn.events():
            helped = helped or (isinstance(event, Notice) and turn.done is None and event.text == turn.resources)
    except EngineError as error:
        return _result(domain, prompt, turn, (f"no answer: {error.message}",))
    return _result(domain, prompt, turn, judge(prompt, domain, turn, helped))


def judge(prompt: SmokePrompt, domain: str, turn: Turn, helped: bool) -> tuple[str, ...]:
    """The rules an answer breaks, in words."""
    done = turn.done
    if done is None:
        return ("no answer came",)
    broken = []
    if not done.text.strip():
        broken.append("the answer is empty")
    elif reason := degeneration(done.text, done.ids):
        broken.append(f"the answer is no language: {reason}")
    if done.stopped_by not in ENDED:
        broken.append(f"it does not end within {prompt.max_tokens} tokens")
    waited = first_token_of(done)
    if waited is not None and waited > prompt.first_token_s:
        broken.append(f"the first token came after {waited:.1f} s, more than {prompt.first_token_s:g} s")
    broken += _words(prompt, done.text)
    if _bare(done.text).startswith(_bare(prompt.prompt)):
        broken.append("it says the question again")
    if prompt.routed and turn.decision.domain != domain:
        broken.append(f"the router chose {turn.decision.domain or 'nobody'}, not {domain}")
    if prompt.crisis and not helped:
        broken.append("no help was shown before the answer")
    if turn.fallback is not None:
        broken.append(turn.fallback)
    return tuple(broken)


def _bare(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def _words(prompt: SmokePrompt, text: str) -> list[str]:
    broken = []
    lower = text.lower()
    if prompt.contains and not any(word.lower() in lower for word in prompt.contains):
        broken.append(f"none of {', '.join(prompt.contains)} is in it")
    broken += [f"{word!r} is in it" for word in prompt.excludes if word.lower() in lower]
    if token := TEMPLATE_TOKENS.search(text):
        broken.append(f"a token of a chat template is in it: {token.group()}")
    return broken


def first_token_of(done: Done) -> float | None:
    """Seconds from the question to the first token, without loading the base."""
    return None if done.waited_s is None else done.waited_s - (done.load_s or 0.0)


def _result(domain: str, prompt: SmokePrompt, turn: Turn, broken: tuple[str, ...]) -> Result:
    done = turn.done
    return Result(
        domain,
        prompt.name,
        prompt.prompt,
        turn.domain,
        done.text[:KEPT_CHARACTERS] if done else "",
        broken,
        done.tokens if done else 0,
        done.tokens_per_s if done else None,
        first_token_of(done) if done else None,
        done.stopped_by if done else None,
    )


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Results for scripts and for the store."""
    return [{**asdict(one), "broken": list(one.broken), "passed": one.passed} for one in results]


def summary(results: Sequence[Result]) -> str:
    """How it went, in a line: how many passed, and which did not."""
    failed = [f"{one.asked} {one.name}" for one in results if not one.passed]
    line = f"{len(results) - len(failed)} of {len(results)} passed"
    return line + (f"; failed: {', '.join(failed)}" if failed else "")
