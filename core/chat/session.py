"""A conversation with a release: each message is routed, guided and answered, and the history is kept."""

import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from core.catalog.guidance import GuidanceRules
from core.chat.caches import MOST_ROUTES, Cache, EmotionCache, Figures
from core.chat.client import Engine
from core.chat.consensus import LIMIT_S, Compared, compare
from core.chat.events import Done, Restarted, Token
from core.chat.guidance import Guidance, guidance_for
from core.chat.memory import Memory
from core.chat.preference import BALANCED, Preference
from core.chat.protocol import EngineClosed, EngineError, PromptRefused, SamplingOptions
from core.chat.subject import Subject
from core.routing import Decision
from core.routing.crisis import Crisis
from core.routing.decision import ENCODER
from core.routing.past import Past
from core.routing.words import normalise
from core.text import writable

_ALL_OPTIONS = frozenset(field.name for field in fields(SamplingOptions))


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

    def __init__(self, message: str, decision: Decision, domain: str | None, guidance: Guidance | None) -> None:
        self.message = message
        self.decision = decision
        self.domain = domain  # who answers; None is the base alone
        self.guidance = guidance  # what is added to the system prompt, and changes of sampling
        self.resources = decision.resources
        self.past = Past()  # what earlier messages said to the router
        self.pair: tuple[str, str] | None = None  # the two that are asked where the router is torn
        self.compared: Compared | None = None
        self.fallback: str | None = None  # why the general model took over
        self.stood_in_for: str | None = None  # from whom it took over
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

    def close(self) -> None:
        """Leave the answer where it is; what came of it is kept in the conversation."""
        if isinstance(self._events, Generator):
            self._events.close()

    @property
    def about(self) -> str | None:
        """Whose subject the question is: who answers, or for whom the general model does. Of a crisis nothing is made
        of that, and it is who answers."""
        return self.domain if self.stood_in_for is None or self.private else self.stood_in_for

    @property
    def private(self) -> bool:
        """Whether neither message nor answer may be kept anywhere."""
        return self.decision.crisis is not None


class Conversation:
    """A person's conversation with one release or bundle folder, or another subject. Ends its engine when closed.

    `sampling` is how answers are chosen; guidance leaves the options named in `kept` alone: where that is not said, all
    of a given `sampling`. `rules` are the guidance's, the shipped ones where none are given. Raises InvalidInput for a
    folder that is no release, EngineError from the answers.
    """

    def __init__(
        self,
        subject: Path | Subject,
        *,
        engine: Engine | None = None,
        sampling: SamplingOptions | None = None,
        kept: Collection[str] | None = None,
        rules: GuidanceRules | None = None,
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
        self.router.read_emotion = self.emotions.reading(self.router.read_emotion)
        self.routes: Cache[tuple[object, ...], Decision] = Cache(MOST_ROUTES)
        self._sampling = sampling
        self._kept = kept if kept is not None else (_ALL_OPTIONS if sampling is not None else ())
        self._rules = rules
        self._consensus_limit_s = consensus_limit_s
        self._history: list[dict[str, str]] = []
        self._previous: str | None = None
        self._crisis: Crisis | None = None  # of the message before
        self._private_before = False  # whether the newest message of the history was one of a crisis
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
        self._crisis = None
        self._private_before = False

    # -- asking ----------------------------------------------------------------------------------------------------

    def route(self, message: str) -> Decision:
        """Where a message would go now."""
        return self._route(writable(message), self.memory.past())

    def _route(self, message: str, past: Past) -> Decision:
        resident, weights = self.engine.resident(), self.prefer.weights(self.router.weights)
        # Behind a crisis that is over nothing is made of it, so that nothing can be kept of it.
        over = self._private_before and self._crisis is None
        before = self._history[-2]["content"] if self._history and not over else None
        minutes = int((time.monotonic() - self._answered_at) // 60) if before is not None else 0
        gone = self._unavailable()
        method = self.router.method
        context = (self._previous, before, minutes, resident, tuple(weights.items()), past.key(), method)
        key = (normalise(message), self.subject.routing_sha256, *context, tuple(sorted(gone.items())))
        # A key must not hold a crisis, nor what goes on with one.
        known = self.routes.get(key) if self._crisis is None else None
        if known is not None:
            return known
        decision = self.router.route(
            message,
            self._previous,
            resident,
            weights=weights,
            past=past,
            previous=before,
            seconds=60.0 * minutes,
            unavailable=gone,
            crisis_before=self._crisis,
        )
        # What was decided without the encoder because it failed is decided anew.
        failed = method == ENCODER and bool(decision.note)
        if decision.crisis is None and self._crisis is None and not failed:
            self.routes.put(key, decision)
        return decision

    def _unavailable(self) -> dict[str, str]:
        """The domains the router leaves out; none where that would leave nobody: who is asked says what is wrong."""
        gone = self.engine.unavailable()
        return gone if self.subject.general or len(gone) < len(self.engine.domains) else {}

    def ask(
        self,
        message: str,
        domain: str | None = None,
        sampling: SamplingOptions | None = None,
        *,
        both: bool = True,
    ) -> Turn:
        """Put a question. `domain` names who answers, None leaves it to the router; a crisis overrides both. `both`:
        where the router is torn, two may be asked.

        Nothing is computed until the turn's events are read. A question whose answer failed is not kept in the history,
        a cancelled answer is, as far as it came.
        """
        if domain is not None and domain not in self.subject.prompts:
            raise EngineError(
                f"{self.subject.name} has no domain {domain!r}", f"it has: {', '.join(sorted(self.subject.prompts))}"
            )
        message, past = writable(message), self.memory.past()
        decision = self._route(message, past)
        chosen = decision.domain if domain is None or decision.crisis is not None else domain
        if chosen is None and not self.subject.general:
            chosen = self._likeliest(decision)
        pair = self._pair(decision) if both and domain is None else None
        first = chosen if pair is None else pair[0]
        turn = Turn(message, decision, first, self._guidance(decision, first, message))
        turn.past, turn.pair = past, pair
        turn._events = self._events(turn, sampling)
        return turn

    def _guidance(
        self, decision: Decision, domain: str | None, message: str, history: Sequence[dict[str, str]] | None = None
    ) -> Guidance | None:
        """How `domain` should sound in answering this message."""
        crisis = decision.crisis is not None
        earlier = self.prefer.recent(self._history if history is None else history)
        return guidance_for(domain, decision.emotion, message, earlier, crisis=crisis, rules=self._rules)

    def _sampling_for(self, guidance: Guidance | None, given: SamplingOptions | None) -> SamplingOptions:
        """How an answer is chosen: as given with the question, else as the conversation and the guidance say."""
        if given is not None:
            return given
        own = self._sampling or SamplingOptions(self.prefer.max_tokens)
        return own if guidance is None else guidance.apply(own, self._kept)

    def _likeliest(self, decision: Decision) -> str | None:
        """Who answers where the router is unsure and every model is a domain's: the one before, else the best."""
        best = decision.candidates[0].domain if decision.candidates else None
        return best if self._previous in (None, *decision.unavailable) else self._previous

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
        guidance: Guidance | None,
        history: Sequence[dict[str, str]] | None = None,
    ) -> list[dict[str, str]]:
        """What the model is given: the domain's system prompt with the guidance, the history (this conversation's own,
        where none is given), the message."""
        tone = guidance.instruction if guidance is not None else ""
        system = " ".join(part for part in (self.subject.prompts.get(domain or "", ""), tone) if part)
        head = [{"role": "system", "content": system}] if system else []
        earlier = self.prefer.recent(self._history if history is None else history)
        return [*head, *earlier, {"role": "user", "content": message}]

    def _events(self, turn: Turn, sampling: SamplingOptions | None) -> Iterator[Happening]:
        self._stopped.clear()
        self._crisis = turn.decision.crisis  # also where the answer fails
        if turn.resources is not None:
            yield Notice(turn.resources)
        if turn.pair is not None:
            yield from self._both(turn, turn.pair, sampling)
        else:
            yield from self._one(turn, sampling)

    def _one(self, turn: Turn, sampling: SamplingOptions | None) -> Iterator[Happening]:
        """The chosen domain's answer; where it fails, once, the general model's."""
        try:
            yield from self._said(turn, sampling)
        except (EngineClosed, PromptRefused):
            raise
        except EngineError as error:
            if turn.domain is None or not self.subject.general or self._stopped.is_set():
                raise
            turn.fallback = f"{turn.domain} could not answer: {error.message}"
            turn.stood_in_for, turn.domain = turn.domain, None
            turn.guidance = self._guidance(turn.decision, None, turn.message)
            yield Notice(f"{turn.fallback}; the general model answers instead", anew=True)
            yield from self._said(turn, sampling)

    def _said(self, turn: Turn, sampling: SamplingOptions | None) -> Iterator[Happening]:
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
        except (GeneratorExit, KeyboardInterrupt):  # the reader left in the middle: what it saw is what was said
            if turn.done is None:
                self._remember(turn, "".join(said))
            raise

    def _asked(
        self, turn: Turn, domain: str | None, sampling: SamplingOptions | None
    ) -> Iterator[Token | Restarted | Done]:
        messages = self.messages_for(turn.message, domain, turn.guidance)
        chosen = self._sampling_for(turn.guidance, sampling)
        return self.engine.ask(messages, domain, chosen, context=self.prefer.context, cached=not turn.private)

    def _both(self, turn: Turn, pair: tuple[str, str], sampling: SamplingOptions | None) -> Iterator[Happening]:
        """The first domain's answer as it comes; then the second's, and the better one is taken."""
        before = list(self._history)
        yield Notice(f"between {pair[0]} and {pair[1]}: both answer, and the better answer is taken")
        began = time.monotonic()
        for event in self._one(turn, sampling):
            if not isinstance(event, Done):
                yield event
        assert turn.done is not None
        if turn.fallback is None and turn.done.stopped_by != "cancelled":
            first = (pair[0], turn.done, time.monotonic() - began)
            asked = self.messages_for(turn.message, None, None, before)
            tone = self._guidance(turn.decision, pair[1], turn.message, before)  # each domain has its own
            others, chosen = self.messages_for(turn.message, pair[1], tone, before), self._sampling_for(tone, sampling)
            found = compare(
                first,
                pair[1],
                lambda name: self.engine.ask(others, name, chosen, context=self.prefer.context),
                lambda answer: self.engine.judge(asked, answer),
                self.engine.cancel,
                self._stopped.is_set,
                self._consensus_limit_s,
            )
            if isinstance(found, Compared):
                turn.compared = found
                if found.chosen != pair[0]:
                    turn.guidance = tone
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
        self._history[-1] = {"role": "assistant", "content": taken.text}  # only answers with words are compared
        self._previous = taken.domain
        self.memory.amend(taken.domain)
        yield Notice(f"the answer of {taken.domain} is taken", anew=True)
        yield Token(taken.text)

    def _remember(self, turn: Turn, text: str) -> None:
        if text:
            self._history += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": text}]
            self._previous = turn.about
            self._private_before = turn.private
            self._answered_at = time.monotonic()
            self.memory.add(turn.decision, turn.about)

    # -- the end ---------------------------------------------------------------------------------------------------

    def prepare(self, domain: str | None = None) -> None:
        """Have router and engine loaded before the first question. Raises EngineError."""
        self.router.start()
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
