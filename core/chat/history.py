"""Chat turns in the store: what was asked, who answered and why. The text of crisis messages is not kept."""

import json
import time
from dataclasses import asdict
from typing import Any

from core.chat.session import Turn
from core.store.reads import open_reader
from core.workspace import Workspace


def remember(workspace: Workspace, session: str, bundle: str, phase: int | None, turn: Turn, answer: str) -> None:
    """Record a finished turn with its routing decision."""
    from core.store.engine import dump, open_store
    from core.store.tables import ChatTurn

    private = turn.decision.crisis is not None
    with open_store(workspace).write() as db:
        db.add(
            ChatTurn(
                session=session,
                phase=phase,
                bundle=bundle,
                domain=turn.domain,
                message=None if private else turn.message,
                answer=None if private else answer,
                decision="{}" if private else dump(asdict(turn.decision)),
                tokens=turn.done.tokens if turn.done is not None else None,
                tokens_per_s=turn.done.tokens_per_s if turn.done is not None else None,
                at=time.time(),
            )
        )


def turns_of(workspace: Workspace, session: str, bundle: str | None = None) -> list[dict[str, Any]]:
    """The turns of a session, oldest first, narrowed to one bundle or release folder."""
    with open_reader(workspace) as reader:
        return [
            {**turn, "decision": json.loads(turn["decision"])}
            for turn in reader.chat_turns(session)
            if bundle is None or turn["bundle"] == bundle
        ]
