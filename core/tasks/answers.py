"""The answers a model is verified by: all its questions are asked, and most must be answered as a sound model does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.gguf.gate import check_generation
from core.gguf.runtime import Runtime
from core.gguf.sampling import Sampling

MAX_TOKENS = 256
GREEDY = "greedy"
# As chat chooses tokens, but always with this seed. A small model that always takes the likeliest token runs in circles
# at some questions, where it does not as people talk to it; one that cannot end an answer does not end this one either.
AS_IN_CHAT = Sampling(temperature=0.7, seed=0)


@dataclass(frozen=True)
class Attempt:
    """An answer to a question, how its tokens were chosen, and which gates it failed."""

    prompt: str
    chosen: str
    text: str
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    stopped_by: str | None
    first_token_s: float | None
    tokens_per_s: float | None
    failures: tuple[str, ...]

    @property
    def line(self) -> str:
        """The question and what came of it, for the log."""
        return f"{self.prompt[:60]!r}, {self.chosen}: {', '.join(self.failures) or 'passed'}, {self.tokens} tokens"


@dataclass(frozen=True)
class Answers:
    """All attempts at some questions, in the order they were made; a question has two where the greedy one failed."""

    attempts: tuple[Attempt, ...]

    @property
    def asked(self) -> int:
        """How many questions were asked."""
        return len({one.prompt for one in self.attempts})

    @property
    def passed(self) -> int:
        """How many of them have an answer that passed all gates."""
        return len({one.prompt for one in self.attempts if not one.failures})

    @property
    def again(self) -> int:
        """How many of those passed only when they were asked again as in chat."""
        return sum(not one.failures and one.chosen != GREEDY for one in self.attempts)

    @property
    def needed(self) -> int:
        """How many must pass: most of them."""
        return self.asked // 2 + 1

    @property
    def best(self) -> Attempt:
        """The first answer that passed, else the last of all."""
        return next((one for one in self.attempts if not one.failures), self.attempts[-1])

    @property
    def line(self) -> str:
        """How many passed, in a phrase."""
        again = f", {self.again} of them when asked again as in chat" if self.again else ""
        return f"{self.passed} of {self.asked} answers passed{again}"

    @property
    def fault(self) -> str | None:
        """Why the model does not pass, or None."""
        if self.passed >= self.needed:
            return None
        good = {one.prompt for one in self.attempts if not one.failures}
        failed = [
            f"{one.chosen}, {', '.join(one.failures)} ({one.text[:80]!r})"
            for one in self.attempts
            if one.prompt not in good
        ]
        return f"{self.line}, {self.needed} must: {'; '.join(failed)}"

    def counts(self) -> dict[str, int]:
        """How many questions were asked, passed, passed only when asked again, and had to pass."""
        return {"asked": self.asked, "passed": self.passed, "passed_again": self.again, "needed": self.needed}

    def as_dict(self) -> dict[str, Any]:
        """What the report says of them."""
        return {**self.counts(), "attempts": [asdict(one) for one in self.attempts]}


def ask_all(runtime: Runtime, rendered: Mapping[str, list[int]]) -> Answers:
    """Ask every question, by its tokens: greedily, and once more as in chat where that answer fails a gate."""
    found: list[Attempt] = []
    for prompt, tokens in rendered.items():
        found.append(_ask(runtime, prompt, tokens, None))
        if found[-1].failures:
            found.append(_ask(runtime, prompt, tokens, AS_IN_CHAT))
    return Answers(tuple(found))


def _ask(runtime: Runtime, prompt: str, tokens: list[int], sampling: Sampling | None) -> Attempt:
    runtime.forget()  # the time to the first token is that of a whole prompt
    answer = runtime.generate(tokens, max_tokens=MAX_TOKENS, sampling=sampling).finish()
    return Attempt(
        prompt,
        GREEDY if sampling is None else f"temperature {sampling.temperature:g}, seed {sampling.seed}",
        answer.text,
        answer.prompt_tokens,
        answer.reused_tokens,
        len(answer.tokens),
        answer.stopped_by,
        answer.first_token_s,
        answer.tokens_per_s,
        tuple(str(one) for one in check_generation(answer.text, answer.tokens, answer.stopped_by or "")),
    )
