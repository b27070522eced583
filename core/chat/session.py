"""A conversation with a release: each message is routed, guided and answered, and the history is kept."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from core.catalog.guidance import GuidanceRules
from core.chat.client import Done, Engine, Token
from core.chat.guidance import Guidance, guidance_for
from core.chat.protocol import EngineError, SamplingOptions
from core.deploy.manifest import has_general_model, read_manifest
from core.routing import Decision, Router

_ALL_OPTIONS = frozenset(field.name for field in fields(SamplingOptions))


@dataclass(frozen=True)
class Notice:
    """What is shown before the answer, and is not the model's: crisis resources, or that old messages were left out."""

    text: str


class Turn:
    """One question and its answer. Iterate over `events` or `pieces` once; `done` is set when the answer is over."""

    def __init__(self, message: str, decision: Decision, domain: str | None, guidance: Guidance | None) -> None:
        self.message = message
        self.decision = decision
        self.domain = domain  # who answers; None is the base alone
        self.guidance = guidance  # what is added to the system prompt, and changes of sampling
        self.resources = decision.resources
        self.done: Done | None = None
        self._events: Iterator[Notice | Token | Done] = iter(())

    def events(self) -> Iterator[Notice | Token | Done]:
        """Crisis resources if there are any, then the answer as it comes, then Done. Raises EngineError."""
        return self._events

    def pieces(self) -> Iterator[str]:
        """The answer's text alone, as the model wrote it; show `resources` first."""
        for event in self._events:
            if isinstance(event, Token):
                yield event.text


class Conversation:
    """A person's conversation with one release or bundle folder. Ends its engine when closed.

    `sampling` is how answers are chosen; guidance leaves the options named in `kept` alone: where that is not said, all
    of a given `sampling`. `rules` are the guidance's, the shipped ones where none are given. Raises InvalidInput for a
    folder that is no release, EngineError from the answers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: Engine | None = None,
        sampling: SamplingOptions | None = None,
        kept: Collection[str] | None = None,
        rules: GuidanceRules | None = None,
    ) -> None:
        manifest = read_manifest(folder)
        self.folder = folder
        self._general = has_general_model(manifest)
        self.router = Router.load(folder / manifest["routing"]["file"])
        self.engine = engine or Engine(folder)
        self._sampling = sampling
        self._kept = kept if kept is not None else (_ALL_OPTIONS if sampling is not None else ())
        self._rules = rules
        self._prompts = {name: str(entry.get("system_prompt") or "") for name, entry in manifest["domains"].items()}
        self._history: list[dict[str, str]] = []
        self._previous: str | None = None

    @property
    def history(self) -> tuple[dict[str, str], ...]:
        """The messages so far, oldest first, without system prompts."""
        return tuple(self._history)

    def reset(self) -> None:
        """Begin anew; the engine stays loaded."""
        self._history = []
        self._previous = None

    def route(self, message: str) -> Decision:
        """Where a message would go now."""
        return self.router.route(message, self._previous, self.engine.resident())

    def ask(self, message: str, domain: str | None = None, sampling: SamplingOptions | None = None) -> Turn:
        """Put a question. `domain` names who answers, None leaves it to the router; a crisis overrides both.

        Nothing is computed until the turn's events are read. A question whose answer failed is not kept in the history,
        a cancelled answer is, as far as it came.
        """
        if domain is not None and domain not in self._prompts:
            raise EngineError(
                f"{self.folder.name} has no domain {domain!r}", f"it has: {', '.join(sorted(self._prompts))}"
            )
        decision = self.route(message)
        chosen = decision.domain if domain is None or decision.crisis is not None else domain
        if chosen is None and not self._general:
            chosen = self._likeliest(decision)
        crisis = decision.crisis is not None
        guidance = guidance_for(chosen, decision.emotion, message, self._history, crisis=crisis, rules=self._rules)
        turn = Turn(message, decision, chosen, guidance)
        turn._events = self._events(turn, self._sampling_for(guidance, sampling))
        return turn

    def _sampling_for(self, guidance: Guidance | None, given: SamplingOptions | None) -> SamplingOptions | None:
        """How this answer is chosen: as given with the question, else as the conversation's and the guidance say."""
        if given is not None or guidance is None:
            return given or self._sampling
        return guidance.apply(self._sampling or SamplingOptions(), self._kept)

    def _likeliest(self, decision: Decision) -> str | None:
        """Who answers where the router is unsure and every model is a domain's: the one before, else the best."""
        best = decision.candidates[0].domain if decision.candidates else None
        return self._previous or best

    def messages_for(self, message: str, domain: str | None, guidance: Guidance | None) -> list[dict[str, str]]:
        """What the model is given: the domain's system prompt with the guidance, the history, the message."""
        tone = guidance.instruction if guidance is not None else ""
        system = " ".join(part for part in (self._prompts.get(domain or "", ""), tone) if part)
        head = [{"role": "system", "content": system}] if system else []
        return [*head, *self._history, {"role": "user", "content": message}]

    def _events(self, turn: Turn, sampling: SamplingOptions | None) -> Iterator[Notice | Token | Done]:
        if turn.resources is not None:
            yield Notice(turn.resources)
        said: list[str] = []
        messages = self.messages_for(turn.message, turn.domain, turn.guidance)
        try:
            for event in self.engine.ask(messages, turn.domain, sampling):
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

    def _remember(self, turn: Turn, text: str) -> None:
        if text:
            self._history += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": text}]
            self._previous = turn.domain

    def cancel(self) -> None:
        """Stop the answer that is being made; from any thread."""
        self.engine.cancel()

    def close(self) -> None:
        """End the engine; from any thread, also in the middle of an answer."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
