"""A conversation with a release: each message is routed, guided and answered, and the history is kept."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from core.chat.caches import MOST_ROUTES, Cache, EmotionCache, Figures
from core.chat.client import Done, Engine, Restarted, Token
from core.chat.consensus import LIMIT_S, Compared, compare
from core.chat.guidance import CRISIS, tone_for
from core.chat.memory import Memory
from core.chat.preference import BALANCED, Preference
from core.chat.protocol import EngineClosed, EngineError, PromptRefused, SamplingOptions
from core.chat.subject import Subject
from core.routing import Decision
from core.routing.past import Past
from core.routing.words import normalise


@dataclass(frozen=True)
class Notice:
    """What is shown and is not the model's: crisis resources before the answer, that something failed in the middle.

    `anew`: what came of the answer so far is void, another one begins.
    """

    text: str
    anew: bool = False


Happening = Notice | Token | Compared | Done


class Turn:
    """One question and its answer. Iterate over `events` or `pieces` once; `done` is set when the answer is over."""

    def __init__(self, message: str, decision: Decision, domain: str | None, guidance: str | None) -> None:
        self.message = message
        self.decision = decision
        self.domain = domain  # who answers; None is the base alone
        self.guidance = guidance  # what was added to the system prompt
        self.resources = decision.resources
        self.past = Past()  # what earlier messages said to the router
        self.pair: tuple[str, str] | None = None  # the two that are asked where the router is torn
        self.compared: Compared | None = None
        self.fallback: str | None = None  # why the general model took over
        self.done: Done | None = None
        self._events: Iterator[Happening] = iter(())

    def events(self) -> Iterator[Happening]:
        """Crisis resources if there are any, then the answer as it comes, then Done. Raises EngineError."""
        return self._events

    def pieces(self) -> Iterator[str]:
        """The answer's text alone, as the model wrote it; show `resources` first. Where another answer takes the place
        of a broken one (`fallback`), both are in it; `done.text` is the whole of the right one."""
        for event in self._events:
            if isinstance(event, Token):
                yield event.text

    @property
    def private(self) -> bool:
        """Whether neither message nor answer may be kept anywhere."""
        return self.decision.crisis is not None


class Conversation:
    """A person's conversation with one release or bundle folder, or another subject. Ends its engine when closed.

    Raises InvalidInput for a folder that is no release, EngineError from the answers.
    """

    def __init__(
        self,
        subject: Path | Subject,
        *,
        engine: Engine | None = None,
        sampling: SamplingOptions | None = None,
        prefer: Preference = BALANCED,
        memory: Memory | None = None,
        consensus_limit_s: float = LIMIT_S,
    ) -> None:
        self.subject = subject if isinstance(subject, Subject) else Subject.of_folder(subject)
        self.router = self.subject.router
        self.engine = engine or Engine(self.subject.holdings, n_ctx=prefer.context)
        self.prefer = prefer
        self.memory = memory or Memory()
        self.emotions = EmotionCache()
        self.router.read_emotion = self.emotions.reading(self.router.read_emotion, self.router.emotion_method)
        self.routes: Cache[tuple[object, ...], Decision] = Cache(MOST_ROUTES)
        self._sampling = sampling
        self._consensus_limit_s = consensus_limit_s
        self._history: list[dict[str, str]] = []
        self._previous: str | None = None
        self._answered_at = 0.0
        self._stopped = threading.Event()

    # -- what it is set to -----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The release, bundle or file that is talked to."""
        return self.subject.folder

    @property
    def history(self) -> tuple[dict[str, str], ...]:
        """The messages so far, oldest first, without system prompts."""
        return tuple(self._history)

    def set_preference(self, prefer: Preference) -> None:
        """Speed or quality from the next question on. A larger context than the loaded one starts the engine again."""
        self.prefer = prefer
        self.engine.n_ctx = max(self.engine.n_ctx, prefer.context)

    def figures(self) -> dict[str, Figures]:
        """What the caches of this conversation knew, by name."""
        return {
            "answers": self.engine.answers.figures,
            "routing": self.routes.figures,
            "emotion": self.emotions.figures,
        }

    def reset(self) -> None:
        """Begin anew; the engine stays loaded, and so does what is known of the person."""
        self._history = []
        self._previous = None

    # -- asking ----------------------------------------------------------------------------------------------------

    def route(self, message: str) -> Decision:
        """Where a message would go now."""
        return self._route(message, self.memory.past())

    def _route(self, message: str, past: Past) -> Decision:
        resident, weights = self.engine.resident(), self.prefer.weights(self.router.weights)
        before = self._history[-2]["content"] if self._history else None
        minutes = int((time.monotonic() - self._answered_at) // 60) if before is not None else 0
        context = (self._previous, before, minutes, resident, tuple(weights.items()), past.key())
        key = (normalise(message), self.subject.routing_sha256, *context)
        known = self.routes.get(key)
        if known is not None:
            return known
        decision = self.router.route(
            message, self._previous, resident, weights=weights, past=past, previous=before, seconds=60.0 * minutes
        )
        if decision.crisis is None:
            self.routes.put(key, decision)
        return decision

    def ask(self, message: str, domain: str | None = None, sampling: SamplingOptions | None = None) -> Turn:
        """Put a question. `domain` names who answers, None leaves it to the router; a crisis overrides both.

        Nothing is computed until the turn's events are read. A question whose answer failed is not kept in the history,
        a cancelled answer is, as far as it came.
        """
        if domain is not None and domain not in self.subject.prompts:
            raise EngineError(
                f"{self.subject.name} has no domain {domain!r}", f"it has: {', '.join(sorted(self.subject.prompts))}"
            )
        past = self.memory.past()
        decision = self._route(message, past)
        chosen = decision.domain if domain is None or decision.crisis is not None else domain
        if chosen is None and not self.subject.general:
            chosen = self._likeliest(decision)
        guidance = CRISIS if decision.crisis is not None else tone_for(decision.emotion)
        turn = Turn(message, decision, chosen, guidance)
        turn.past = past
        if domain is None:
            turn.pair = self._pair(decision)
        turn._events = self._events(turn, sampling or self._sampling or SamplingOptions(self.prefer.max_tokens))
        return turn

    def _likeliest(self, decision: Decision) -> str | None:
        """Who answers where the router is unsure and every model is a domain's: the one before, else the best."""
        best = decision.candidates[0].domain if decision.candidates else None
        return self._previous or best

    def _pair(self, decision: Decision) -> tuple[str, str] | None:
        """The two domains that are asked where the router is torn, if that may be: never in a crisis, only with a base
        to judge, and only where the second needs nothing loaded that the first does not."""
        pair: tuple[str, str] | None = getattr(decision, "consensus", None)
        if pair is None or decision.crisis is not None or not self.subject.general:
            return None
        adapters = self.engine.holdings.adapters
        known = all(name in adapters for name in pair)
        if known and (adapters[pair[0]].base == adapters[pair[1]].base or set(pair) <= self.engine.resident()):
            return pair
        return None

    def messages_for(
        self,
        message: str,
        domain: str | None,
        guidance: str | None,
        history: Sequence[dict[str, str]] | None = None,
    ) -> list[dict[str, str]]:
        """What the model is given: the domain's system prompt with the guidance, the history (this conversation's own,
        where none is given), the message."""
        system = " ".join(part for part in (self.subject.prompts.get(domain or "", ""), guidance or "") if part)
        head = [{"role": "system", "content": system}] if system else []
        earlier = self.prefer.recent(self._history if history is None else history)
        return [*head, *earlier, {"role": "user", "content": message}]

    def _events(self, turn: Turn, sampling: SamplingOptions) -> Iterator[Happening]:
        self._stopped.clear()
        if turn.resources is not None:
            yield Notice(turn.resources)
        if turn.pair is not None:
            yield from self._both(turn, turn.pair, sampling)
        else:
            yield from self._one(turn, sampling)

    def _one(self, turn: Turn, sampling: SamplingOptions) -> Iterator[Happening]:
        """The chosen domain's answer; where it fails, once, the general model's."""
        try:
            yield from self._said(turn, sampling)
        except (EngineClosed, PromptRefused):
            raise
        except EngineError as error:
            if turn.domain is None or not self.subject.general or self._stopped.is_set():
                raise
            turn.fallback = f"{turn.domain} could not answer: {error.message}"
            turn.domain = None
            yield Notice(f"{turn.fallback}; the general model answers instead", anew=True)
            yield from self._said(turn, sampling)

    def _said(self, turn: Turn, sampling: SamplingOptions) -> Iterator[Happening]:
        said: list[str] = []
        try:
            for event in self._asked(turn, turn.domain, sampling):
                if isinstance(event, Restarted):
                    yield Notice(f"{event.reason}; it was started again and the answer goes on")
                    continue
                if isinstance(event, Token):
                    said.append(event.text)
                else:
                    turn.done = event
                    self._remember(turn, event.text)
                yield event
        except GeneratorExit:  # the reader left in the middle: what it saw is what was said
            if turn.done is None:
                self._remember(turn, "".join(said))
            raise

    def _asked(self, turn: Turn, domain: str | None, sampling: SamplingOptions) -> Iterator[Token | Restarted | Done]:
        messages = self.messages_for(turn.message, domain, turn.guidance)
        return self.engine.ask(
            messages, domain, sampling, context=self.prefer.context, cached=not turn.private
        )  # fmt: skip

    def _both(self, turn: Turn, pair: tuple[str, str], sampling: SamplingOptions) -> Iterator[Happening]:
        """The first domain's answer as it comes; then the second's, and the better one is taken."""
        turn.domain = pair[0]
        yield Notice(f"between {pair[0]} and {pair[1]}: both answer, and the better answer is taken")
        began = time.monotonic()
        for event in self._one(turn, sampling):
            if not isinstance(event, Done):
                yield event
        assert turn.done is not None
        if turn.fallback is None and turn.done.stopped_by != "cancelled":
            first = (pair[0], turn.done, time.monotonic() - began)
            asked = self.messages_for(turn.message, None, None, self._history[:-2])
            others = self.messages_for(turn.message, pair[1], turn.guidance, self._history[:-2])
            found = compare(
                first,
                pair[1],
                lambda name: self.engine.ask(others, name, sampling, context=self.prefer.context),
                lambda answer: self.engine.judge(asked, answer),
                self.engine.cancel,
                self._stopped.is_set,
                self._consensus_limit_s,
            )
            if isinstance(found, Compared):
                turn.compared = found
                if found.chosen != pair[0]:
                    yield from self._replaced(turn, found)
                yield found
            elif found:
                yield Notice(f"not compared: {found}")
        yield turn.done

    def _replaced(self, turn: Turn, found: Compared) -> Iterator[Happening]:
        """The second answer in the place of the first, here and in the history."""
        taken = found.answers[1]
        turn.domain = taken.domain
        assert turn.done is not None
        turn.done = replace(
            turn.done, text=taken.text, tokens=taken.tokens, domain=taken.domain, tokens_per_s=None, ids=()
        )
        self._history[-1] = {"role": "assistant", "content": taken.text}
        self._previous = taken.domain
        yield Notice(f"the answer of {taken.domain} is taken", anew=True)
        yield Token(taken.text)

    def _remember(self, turn: Turn, text: str) -> None:
        if text:
            self._history += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": text}]
            self._previous = turn.domain
            self._answered_at = time.monotonic()
            self.memory.add(turn.decision, turn.domain)

    # -- the end ---------------------------------------------------------------------------------------------------

    def prepare(self, domain: str | None = None) -> None:
        """Have the engine loaded before the first question. Raises EngineError."""
        self.engine.prepare(domain)

    def cancel(self) -> None:
        """Stop the answer that is being made; from any thread."""
        self._stopped.set()
        self.engine.cancel()

    def close(self) -> None:
        """End the engine; from any thread, also in the middle of an answer."""
        self._stopped.set()
        self.engine.close()
        self.router.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
