"""The chat of the console over the project's own conversation: routing here, the model in an engine process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from core.chat import client
from core.chat.guidance import rules_of
from core.chat.session import Conversation
from core.chat.session import Notice as SessionNotice
from core.routing import explain, headline
from core.workspace import Workspace
from tara_tui.backend import ChatEvent, Done, Notice, Routed, Token

NOBODY = "base model"  # who answers where no domain does


class EngineChat:
    """One conversation with a bundle or release folder."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @classmethod
    def open(cls, folder: Path, workspace: Workspace | None = None) -> Self:
        """A conversation with the bundle or release in a folder, with a workspace's rules of tone. Raises InvalidInput
        for another folder, or faulty rules."""
        return cls(Conversation(folder, rules=rules_of(workspace)))

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """Answer a question, routed, or by the domain named. Raises TaraError."""
        turn = self._conversation.ask(question, domain)
        line = headline(turn.decision)
        if domain is not None and turn.domain == domain:
            line = f"{domain} (chosen by you; the router says: {line})"
        parts = explain(turn.decision)
        if turn.guidance is not None:
            parts.append(f"tone: {turn.guidance.name} of {turn.guidance.domain}, for {turn.guidance.reason}")
        yield Routed(turn.domain or NOBODY, line, tuple(parts))
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
