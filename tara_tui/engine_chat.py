"""The chat of the console over the project's own conversation: routing here, the model in an engine process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from core.chat import client
from core.chat.session import Conversation
from core.chat.session import Notice as SessionNotice
from core.routing import Decision
from tara_tui.backend import ChatEvent, Done, Notice, Routed, Token

NOBODY = "base model"  # who answers where no domain does
EXPLAINED = 3  # candidates that are named


class EngineChat:
    """One conversation with a bundle or release folder."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A conversation with the bundle or release in a folder. Raises InvalidInput for another folder."""
        return cls(Conversation(folder))

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """Answer a question, routed, or by the domain named. Raises TaraError."""
        turn = self._conversation.ask(question, domain)
        yield Routed(turn.domain or NOBODY, explain(turn.decision, forced=domain is not None and turn.domain == domain))
        for event in turn.events():
            if isinstance(event, client.Token):
                yield Token(event.text)
            elif isinstance(event, SessionNotice):
                yield Notice(event.text)
            else:
                yield Done(event.tokens, event.tokens_per_s, event.stopped_by)

    def cancel(self) -> None:
        """Stop the answer that is being made; from any thread."""
        self._conversation.cancel()

    def close(self) -> None:
        """End the engine process; from any thread."""
        self._conversation.close()


def explain(decision: Decision, *, forced: bool) -> str:
    """Why who answers does, in a line: the reason, the confidence, the best candidates with their totals."""
    best = ", ".join(f"{one.domain} {one.total:.2f}" for one in decision.candidates[:EXPLAINED])
    told = f"chosen by you; the router says: {decision.reason}" if forced else decision.reason
    parts = [told, f"confidence {decision.confidence:.2f}"]
    return "; ".join([*parts, best] if best else parts)
