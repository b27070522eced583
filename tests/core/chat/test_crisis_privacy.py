"""A crisis message's text stays out of everything that is written: the store, logs, run folders."""

import logging

import pytest

from core.chat.history import remember, turns_of
from core.chat.session import Turn
from core.routing import Router, explain, headline
from core.workspace import Workspace
from tests.core.routing.conftest import built, catalog, router  # noqa: F401 - fixtures

MARK = "quinceblossom"
MESSAGES = (
    f"I want to kill myself, {MARK}",
    f"he hits me when he drinks and I am hiding in the {MARK} room",
    f"my son isn't breathing, we are at {MARK}",
)


def written(workspace: Workspace) -> bytes:
    """Every byte of every file below a workspace."""
    return b"".join(path.read_bytes() for path in sorted(workspace.root.rglob("*")) if path.is_file())


@pytest.mark.parametrize("message", MESSAGES)
def test_nothing_of_a_crisis_message_is_written(
    workspace: Workspace,
    router: Router,  # noqa: F811
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        decision = router.route(message)
        assert decision.crisis is not None
        turn = Turn(message, decision, decision.domain, None)
        remember(workspace, "chat", "bundle", 1, turn, f"an answer about {MARK}")
    stored = turns_of(workspace, "chat")
    assert len(stored) == 1
    assert stored[0]["message"] is None
    assert stored[0]["answer"] is None
    assert MARK.encode() not in written(workspace)
    assert MARK not in caplog.text
    assert MARK not in headline(decision) + "\n".join(explain(decision))


def test_an_ordinary_message_is_kept(workspace: Workspace, router: Router) -> None:  # noqa: F811
    message = f"How should I lead my team in the {MARK} project?"
    turn = Turn(message, router.route(message), "leadership", None)
    remember(workspace, "chat", "bundle", 1, turn, "an answer")
    assert turns_of(workspace, "chat")[0]["message"] == message
    assert MARK.encode() in written(workspace)
