"""The chat of the console over the project's own conversation: routing here, the model in an engine process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from core.chat import client, session
from core.chat.opening import open_conversation
from core.chat.preference import preference
from core.chat.session import Conversation, Turn
from core.chat.subject import Subject
from core.chat.telling import done_line, stats_line
from core.errors import TaraError
from core.routing import explain, headline
from core.workspace import Workspace
from tara_tui.backend import ChatEvent, Compared, Done, Notice, Routed, Token

NOBODY = "base model"  # who answers where no domain does
SESSION = "console"


class EngineChat:
    """One conversation with a bundle, a release, a model or an adapter. Turns go into the workspace's store, into the
    history of the system's user, where a workspace is given."""

    def __init__(
        self, conversation: Conversation, workspace: Workspace | None = None, phase: int | None = None, user: str = ""
    ) -> None:
        self._conversation = conversation
        self._workspace = workspace
        self._phase = phase
        self._user = user

    @classmethod
    def open(cls, workspace: Workspace, what: Path | str, phase: int | None = None) -> Self:
        """A conversation with a release or bundle folder, or with an artifact by its name or path. Raises InvalidInput
        or Refused for what cannot be talked to."""
        from core.catalog.loading import load_settings
        from core.chat.history import memory_of, user_named
        from core.phases.talking import subject_of_artifact

        settings, user = load_settings(workspace), user_named(None)
        subject = Subject.of_folder(what) if isinstance(what, Path) else subject_of_artifact(workspace, what)
        memory = memory_of(workspace, user, settings.history_half_life_h)
        conversation = open_conversation(subject, settings, memory=memory)
        return cls(conversation, workspace, phase, user)

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """Answer a question, routed, or by the domain named. Raises TaraError."""
        turn = self._conversation.ask(question, domain)
        line = headline(turn.decision)
        if domain is not None and turn.domain == domain:
            line = f"{domain} (chosen by you; the router says: {line})"
        details = (*explain(turn.decision), f"of the emotion term {turn.past.weight:.0%} comes from your history")
        yield Routed(turn.domain or NOBODY, line, details)
        for event in turn.events():
            if isinstance(event, client.Token):
                yield Token(event.text)
            elif isinstance(event, session.Notice):
                yield Notice(event.text, event.anew)
            elif isinstance(event, client.Done):
                yield from self._kept(turn)
                yield Done(event.tokens, event.tokens_per_s, event.stopped_by, done_line(event))
            else:
                yield Compared(event.line(), event.other.domain, event.other.text)

    def _kept(self, turn: Turn) -> Iterator[Notice]:
        """Put a turn into the store; where that fails, say so: the answer is there all the same."""
        if self._workspace is None or turn.done is None:
            return
        from core.chat.history import remember

        try:
            folder = str(self._conversation.folder)
            remember(self._workspace, SESSION, folder, self._phase, turn, turn.done.text, self._user)
        except TaraError as error:
            yield Notice(f"not kept in the history: {error.one_line()}")

    def prepare(self, domain: str | None) -> None:
        """Have the engine loaded before the first question. Raises TaraError."""
        known = domain if domain in self._conversation.engine.domains else None
        self._conversation.prepare(known)

    def prefer(self, name: str) -> str:
        """Speed, balanced or quality from the next question on; what that means, in a line."""
        found = preference(name)
        self._conversation.set_preference(found)
        return found.line()

    def stats(self) -> str:
        """What its caches knew, in a line."""
        return stats_line(self._conversation.figures())

    def cancel(self) -> None:
        """Stop the answer that is being made; from any thread."""
        self._conversation.cancel()

    def close(self) -> None:
        """End the engine process; from any thread."""
        self._conversation.close()
