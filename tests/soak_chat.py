"""A long chat over the domains of a release in random order: `python -m tests.soak_chat --release DIR`.

Every answer is compared with that of an engine that was started for it alone and has seen nothing else: the same
messages, the same adapter. In the middle of the chat, in the middle of an answer, the engine is killed. The engine's
own memory is read after every turn. Nothing comes from the answer cache. Exit status 1 where an answer differs, the
memory grows, or the killed engine does not go on.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.chat.caches import AnswerCache
from core.chat.client import Done, Engine, Token
from core.chat.pool import idle_cores
from core.chat.preference import PREFERENCES
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation, Notice

QUESTIONS = (
    "Where do I begin?", "What would you do first?", "And if that does not work?", "Give me one example.",
    "Say it more simply.", "What is the most common mistake?", "How long does it take?", "What do I need for it?",
    "Who can help me with it?", "What should I avoid?", "Why is that so?", "Is there a cheaper way?",
)  # fmt: skip
# Bytes by which the engine's own memory may differ between the middle third of a process's turns and its last: what it
# keeps of each domain's conversation is bounded, but goes up and down by a conversation.
MOST_GROWTH = 16_000_000


@dataclass
class Soaked:
    """What was seen. `own` is the engine's own memory after each turn, in bytes, by process."""

    turns: int = 0
    switches: int = 0
    compared: int = 0
    different: list[str] = field(default_factory=list)
    restarts: int = 0
    reused: int = 0
    own: dict[int, list[int]] = field(default_factory=dict)
    switch_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)  # of turns with a switch, the switch included

    def growth(self) -> int:
        """The most by which a process's own memory grew, leaving its first turns out, in bytes."""
        found = [0]
        for series in self.own.values():
            third = len(series) // 3
            if third:
                found.append(max(series[-third:]) - max(series[third : 2 * third]))
        return max(found)

    @property
    def passed(self) -> bool:
        """Whether no answer differed, the memory stayed and the killed engine went on."""
        return not self.different and self.growth() <= MOST_GROWTH and self.restarts == 1


def soak(
    release: Path,
    turns: int,
    *,
    seed: int = 1,
    max_tokens: int = 24,
    compare_every: int = 1,
    threads: int = 1,
    told: Callable[[int, Soaked], None] = lambda _turn, _soaked: None,
) -> Soaked:
    """Hold the chat; sampled answers, whose every token depends on all logits before it."""
    draw = random.Random(seed)
    found = Soaked()
    liking = PREFERENCES["speed"]
    engine = Engine(release, n_ctx=liking.context, threads=threads, answers=AnswerCache(0))
    with Conversation(release, engine=engine, prefer=liking) as conversation:
        before: str | None = None
        for turn in range(turns):
            domain = draw.choice(engine.domains)
            found.switches += domain != before
            before = domain
            sampling = SamplingOptions(max_tokens, temperature=0.8, seed=seed + turn)
            question = draw.choice(QUESTIONS)
            messages, done = _asked(conversation, question, domain, sampling, kill=turn == turns // 2)
            found.turns += 1
            found.restarts += done.restarts
            found.reused += done.reused
            if done.switch_s is not None and not done.restarts:
                found.switch_s.append(done.switch_s)
                found.first_s.append(done.switch_s + (done.first_token_s or 0.0))
            (pid,) = engine.pids().values()
            found.own.setdefault(pid, []).append(int(psutil.Process(pid).memory_full_info().uss))
            if turn % compare_every == 0 or done.restarts:
                found.compared += 1
                fresh = _afresh(release, messages, domain, sampling, threads)
                if fresh != done.text:
                    found.different.append(f"turn {turn}, {domain}: {done.text!r}, afresh {fresh!r}")
            told(turn, found)
    return found


def _asked(
    conversation: Conversation, question: str, domain: str, sampling: SamplingOptions, *, kill: bool
) -> tuple[list[dict[str, str]], Done]:
    """What the model was given in one turn, and its end; with `kill`, the engine is ended by SIGKILL behind the third
    token."""
    turn = conversation.ask(question, domain, sampling)
    messages = conversation.messages_for(question, domain, turn.guidance)
    seen = 0
    for event in turn.events():
        assert not (isinstance(event, Notice) and event.anew), event.text
        seen += isinstance(event, Token)
        if kill and seen == 3:
            kill = False
            os.kill(next(iter(conversation.engine.pids().values())), signal.SIGKILL)
    assert turn.done is not None
    return messages, turn.done


def _afresh(
    release: Path, messages: Sequence[dict[str, str]], domain: str, sampling: SamplingOptions, threads: int
) -> str:
    liking = PREFERENCES["speed"]
    with Engine(release, n_ctx=liking.context, threads=threads, answers=AnswerCache(0)) as engine:
        *_, done = engine.ask(messages, domain, sampling, context=liking.context)
    assert isinstance(done, Done)
    return done.text


def lines(found: Soaked) -> list[str]:
    """What was seen, as lines."""
    return [
        f"{found.turns} turns, {found.switches} switches of the domain; engine killed once, {found.restarts} gone on",
        f"{found.compared} answers compared with a fresh engine's: {len(found.different)} differ",
        *found.different[:5],
        f"own memory: {max(max(one) for one in found.own.values()) / 1e6:.0f} MB at most, "
        f"growth {found.growth() / 1e6:+.1f} MB",
        f"prompt tokens used again: {found.reused}",
    ]


def main() -> int:
    """Hold it and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--release", type=Path, default=Path("releases/phase-1/current"))
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: as a chat begun now would take")
    asked = parser.parse_args()
    threads = asked.threads or idle_cores()
    started = time.monotonic()

    def told(turn: int, found: Soaked) -> None:
        if (turn + 1) % 10 == 0:
            print(f"{time.monotonic() - started:6.0f} s  turn {turn + 1}: {len(found.different)} differ", flush=True)

    found = soak(asked.release.resolve(), asked.turns, seed=asked.seed, threads=threads, told=told)
    print("\n".join(lines(found)))
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
