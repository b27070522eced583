"""Chat turns in the store: what was asked, who answered and why, and what a person's history says to the router.

The text of crisis messages is not kept, nor their answers, nor what was felt in them.
"""

import getpass
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from core.chat.memory import Memory, trusted
from core.chat.session import Turn
from core.errors import InvalidInput
from core.routing.past import Moment, Past, past_of
from core.store.reads import open_reader
from core.workspace import Workspace

LONGEST_NAME = 64


def user_named(name: str | None) -> str:
    """A person's name in the history: the one given, else the system's user name. Raises InvalidInput for one that is
    empty, too long or cannot be printed."""
    if name is None:
        try:
            return getpass.getuser()[:LONGEST_NAME] or "somebody"
        except (KeyError, OSError):  # a process of a user id that nobody has
            return "somebody"
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"{name[:LONGEST_NAME]!r} cannot be a user's name", f"1 to {LONGEST_NAME} plain characters")
    return name.strip()


def remember(
    workspace: Workspace, session: str, bundle: str, phase: int | None, turn: Turn, answer: str, user: str | None = None
) -> None:
    """Record a finished turn with its routing decision, in `user`'s history where one is named."""
    from core.store.engine import dump, open_store
    from core.store.tables import ChatTurn

    private = turn.private
    extra: dict[str, Any] = {}
    if turn.fallback is not None:
        extra = {"fallback": turn.fallback, "stood_in_for": turn.stood_in_for}
    if turn.compared is not None:
        extra["consensus"] = asdict(turn.compared)
    with open_store(workspace).write() as db:
        db.add(
            ChatTurn(
                session=session,
                phase=phase,
                bundle=bundle,
                domain=turn.domain,
                message=None if private else turn.message,
                answer=None if private else answer,
                decision="{}" if private else dump({**asdict(turn.decision), **extra}),
                tokens=turn.done.tokens if turn.done is not None else None,
                tokens_per_s=turn.done.tokens_per_s if turn.done is not None else None,
                at=time.time(),
                user=user,
                emotions="{}" if private else dump(trusted(turn.decision)),
                crisis=private,
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


def memory_of(workspace: Workspace, user: str, half_life_h: float) -> Memory:
    """What a conversation of this person begins with."""
    with open_reader(workspace) as reader:
        moments = [Moment(*row) for row in reader.moments(user)]
    return Memory(moments, half_life_h * 3600)


def erase(workspace: Workspace, user: str | None) -> int:
    """Delete a person's turns, or with None those of everybody, texts included; how many there were.

    They are overwritten in the file and its journal, not only unlinked; copies of an older state.db (made before a
    migration, or by you) keep them.
    """
    from sqlalchemy import text
    from sqlmodel import col, delete

    from core.store.engine import open_store
    from core.store.tables import ChatTurn

    wanted = delete(ChatTurn)
    if user is not None:
        wanted = wanted.where(col(ChatTurn.user) == user)
    store = open_store(workspace)
    with store.write() as db:
        db.connection().execute(text("PRAGMA secure_delete = ON"))
        count = int(db.connection().execute(wanted).rowcount)
    store.empty_journal()
    return count


@dataclass(frozen=True)
class History:
    """A person's history: the newest of its `total` turns (those of a crisis without text), how feelings and domains
    stand now, and the share of the emotion term that comes from there."""

    user: str
    turns: tuple[dict[str, Any], ...]
    total: int
    past: Past

    def as_json(self) -> dict[str, Any]:
        """It for scripts."""
        shown = ("at", "session", "phase", "domain", "message", "answer", "crisis", "emotions")
        return {
            "user": self.user,
            "total": self.total,
            "turns": [{name: turn[name] for name in shown} | {"decision": _decision(turn)} for turn in self.turns],
            "emotions": dict(self.past.emotions),
            "domains": dict(self.past.domains),
            "influence": self.past.weight,
        }

    def lines(self) -> list[str]:
        """It as lines; the turns are indented."""
        felt = [f"{name} {value:.2f}" for name, value in self.past.emotions.items() if value >= 0.05]
        asked = [f"{name} {count:.1f}" for name, count in sorted(self.past.domains.items(), key=lambda one: -one[1])]
        newest = f"newest {len(self.turns)} of " if len(self.turns) < self.total else ""
        counted = f"{newest}{self.total} turns"
        found = [
            f"{self.user}: {counted}; of the emotion term {self.past.weight:.0%} comes from the history",
            f"feelings left: {', '.join(felt) or 'none'}",
            f"domains asked, old questions counting less: {', '.join(asked) or 'none'}",
        ]
        for turn in self.turns:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(turn["at"]))
            said = "(a crisis: nothing of it was kept)" if turn["crisis"] else " ".join((turn["message"] or "").split())
            found.append(f" {when}  {turn['domain'] or 'base model'}{_how(turn)}: {said}")
        return found


def _decision(turn: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(turn["decision"])
    return found


def _how(turn: dict[str, Any]) -> str:
    """In what other way than by the domain it was put to a turn was answered."""
    decision = _decision(turn)
    if decision.get("fallback"):
        return f" in place of {decision['stood_in_for']}, which could not answer"
    return " after two were asked" if isinstance(decision.get("consensus"), dict) else ""


def history_of(workspace: Workspace, user: str, half_life_h: float, limit: int = 500) -> History:
    """A person's newest turns, oldest first, and what is left of them now."""
    with open_reader(workspace) as reader:
        turns = reader.history(user, limit)
        total = max(len(turns), reader.users().get(user, 0))
        moments = [Moment(*row) for row in reader.moments(user)]
    return History(user, tuple(turns), total, past_of(moments, time.time(), half_life_h * 3600))
