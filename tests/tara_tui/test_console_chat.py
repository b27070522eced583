"""The chat asks the selected phase's release, shows who answers and why, can be stopped, and ends with the console."""

from pathlib import Path

from core.chat.client import Done as EngineDone
from core.chat.client import Token as EngineToken
from core.chat.session import Notice as SessionNotice
from core.chat.session import Turn
from core.routing import Decision
from core.routing.emotion import EMOTIONS, Emotion
from tara_tui.backend import Done, Notice, Routed, Token
from tara_tui.engine_chat import EngineChat
from tests.tara_tui.fake_backend import FakeBackend
from tests.tara_tui.screen import console


async def test_answer_streams_with_route_and_speed(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("i")
        await it.write("what is revenue?")
        await it.press("enter")
        await it.shows(
            "> what is revenue?",
            "business (82%: many of its words)",
            "Hello there, this is an answer.",
            "6 tokens, 31 tok/s, ended by stop",
        )
        assert it.app.chat.title == "Chat  phase 1 v2  routed  31 tok/s"
        (chat,) = it.backend.chats
        assert chat.questions == [("what is revenue?", None)]
        await it.press("escape", "enter")
        await it.shows("The last routing", "urgency none, complexity 0.10")
    assert chat.closed.is_set()


async def test_selected_domain_can_be_forced_and_the_session_is_kept(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("j", "f", "i")
        await it.write("one")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        assert "always education" in it.app.chat.title
        await it.press("f6")
        await it.write("two")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        (chat,) = it.backend.chats
        assert chat.questions == [("one", "education"), ("two", None)]


async def test_escape_stops_the_answer_then_leaves_the_line(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    backend.hold = True
    async with console(backend) as it:
        await it.press("i")
        await it.write("hi")
        await it.press("enter")
        await it.shows("Hello ", "answering, Esc stops")
        await it.write("again")
        await it.press("enter")
        await it.until(lambda: any("Esc stops it" in note.message for note in it.app._notifications), "refusal")
        await it.press("escape")
        await it.shows("2 tokens, 31 tok/s, ended by cancelled")
        assert it.focused() == "question"
        await it.press("escape")
        assert it.focused() == "transcript"


async def test_other_bundles_of_the_phase(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.shows("Chat  phase 1 v2")
        await it.press("v")
        await it.shows("Chat  phase 1 v1 (old)")
        await it.press("v")
        await it.shows("Chat  phase 1 v2")


async def test_engine_that_cannot_start_is_told_and_the_chat_goes_on(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    original = backend.open_chat

    def broken(_bundle: object) -> object:
        raise OSError("no [engine]")

    backend.open_chat = broken  # type: ignore[assignment, method-assign]
    async with console(backend) as it:
        await it.press("i")
        await it.write("hi")
        await it.press("enter")
        await it.shows("OSError: no [engine]")
        backend.open_chat = original  # type: ignore[method-assign]
        await it.write("hi")
        await it.press("enter")
        await it.shows("Hello there")


async def test_leaving_in_the_middle_of_an_answer_ends_the_engine(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    backend.hold = True
    async with console(backend) as it:
        await it.press("i")
        await it.write("hi")
        await it.press("enter")
        await it.shows("Hello there")
    assert backend.chats[0].closed.is_set()


class Spoken:
    """A conversation whose engine says two words."""

    def ask(self, message: str, domain: str | None = None) -> Turn:
        """A turn that is decided and answered."""
        emotion = Emotion(dict.fromkeys(EMOTIONS, 0.0), 0.0, 0.0)
        decision = Decision("business", 0.82, False, "its words", None, "call 112", 0, 0.1, emotion, (), {})
        turn = Turn(message, decision, domain or "business", None)
        turn._events = iter(
            (
                SessionNotice("call 112"),
                EngineToken("two "),
                EngineToken("words"),
                EngineDone("two words", 2, 9.5, 0.1, "eos", "business"),
            )
        )
        return turn


def test_engine_chat_speaks_as_the_conversation_of_the_core_does() -> None:
    chat = EngineChat(Spoken())  # type: ignore[arg-type]
    routed, *rest = chat.ask("hi", None)
    assert isinstance(routed, Routed)
    assert (routed.domain, routed.explanation) == ("business", "business (82%: its words)")
    assert "urgency none, complexity 0.10, no emotion found" in routed.details
    assert rest == [Notice("call 112"), Token("two "), Token("words"), Done(2, 9.5, "eos")]
    routed = next(iter(chat.ask("hi", "legal")))
    assert isinstance(routed, Routed)
    assert routed.explanation == "legal (chosen by you; the router says: business (82%: its words))"
