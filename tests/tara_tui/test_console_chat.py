"""The chat asks the selected phase's release, shows who answers and why, can be stopped, and ends with the console."""

from pathlib import Path

from core.chat.client import Done as EngineDone
from core.chat.client import Token as EngineToken
from core.chat.protocol import EngineClosed
from core.chat.session import Notice as SessionNotice
from core.chat.session import Turn
from core.errors import TaraError
from core.routing import Decision
from core.routing.emotion import EMOTIONS, Emotion
from tara_tui.backend import Compared, Done, Notice, Routed, Token
from tara_tui.engine_chat import EngineChat
from tests.tara_tui.fake_backend import FakeBackend, make_snapshot
from tests.tara_tui.screen import console, idle


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
        await it.shows("The last routing", "urgency none, complexity 0.10", "caches: answers 1 of 3")
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


async def test_one_key_talks_to_the_selected_phase_domain_or_what_a_job_made(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("shift+tab", "I")  # from the phases
        assert it.focused() == "question"
        await it.until(lambda: backend.chats and backend.chats[0].prepared == [None], "the engine is started")
        assert it.app.chat.title == "Chat  phase 1 v2  routed"
        await it.press("escape")
        it.app.domains.focus()
        await it.press("j", "I")
        await it.until(lambda: backend.chats[0].prepared == [None, "education"], "the domain's adapter")
        assert "always education" in it.app.chat.title
        await it.press("escape")
        it.app.set_mode("jobs")
        await it.press("I")
        await it.shows("adapter legal-1a2b3c4d.gguf")
        assert backend.wishes[-1] == ("talk of", None, 7)
        assert it.focused() == "question"
        await it.press("escape", "v")
        await it.shows("Chat  phase 1 v2")


async def test_a_domain_of_a_phase_that_is_not_built_is_talked_to_by_its_adapter(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("shift+tab", "j", "tab", "I")
        await it.until(lambda: backend.opened and backend.opened[-1].file, "the adapter is talked to")
        assert backend.wishes[-1] == ("talk of", "travel", None)


async def test_what_cannot_be_talked_to_says_why(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        it.app.set_mode("jobs")
        await it.press("I")
        await it.until(lambda: any("made nothing" in note.message for note in it.app._notifications), "why not")


async def test_an_artifact_is_chosen_by_its_name(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("C")
        await it.shows("Talk to an artifact", "model base-Q4_K_M-5e6f7a8b.gguf")
        await it.write("q4_k")
        await it.press("enter")
        await it.until(lambda: backend.opened and backend.opened[-1].path.endswith("5e6f7a8b.gguf"), "the model")
        await it.write("hi")
        await it.press("enter")
        await it.shows("Hello there")
        assert backend.chats[-1].questions == [("hi", None)]


async def test_speed_or_quality_goes_round_and_holds_for_the_next_engine(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("e")
        await it.shows("prefer speed: 1024 tokens of context")
        await it.until(lambda: it.app.chat.title.split("  ")[-1] == "speed", "the title says it")
        await it.press("i")
        await it.write("hi")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        assert backend.chats[0].preferences == ["speed"]
        await it.press("f9")
        await it.until(lambda: backend.chats[0].preferences == ["speed", "quality"], "the session is told")


async def test_a_notice_in_an_answer_and_an_answer_that_begins_anew(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    backend.said = [Notice("the engine was started again")]
    async with console(backend, (120, 60)) as it:
        await it.press("4", "i")
        await it.write("hi")
        await it.press("enter")
        await it.shows("the engine was started again", "Hello there, this is an answer.")
        assert it.text().count("Hello there") == 1
        backend.chats[0].before = [Notice("the general model answers instead", anew=True)]
        await it.write("again")
        await it.press("enter")
        await it.shows("the general model answers instead", "this is an answer.")
        assert it.app.chat.answer == "this is an answer."


async def test_two_answers_are_both_shown(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    backend.words = ["The ", "first."]
    backend.said = [Compared("business of two (45 tokens in 1.2 s)", "legal", "The \x1b[31msecond.")]
    async with console(backend, (120, 60)) as it:
        await it.press("4", "i")
        await it.write("hi")
        await it.press("enter")
        await it.shows("The first.", "business of two", "legal would have said: The ␛second.", "2 tokens, 31 tok/s")


async def test_the_smoke_test_of_a_phase_or_a_domain_opens_its_report(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path, idle(make_snapshot()))
    async with console(backend) as it:
        await it.press("T")
        await it.shows("Smoke test of domain business", "1 of 2 passed", "FAIL  business invoice")
        await it.press("escape", "shift+tab", "T")
        await it.shows("Smoke test of phase 1")
        assert backend.wishes == [("smoke", 1, "business"), ("smoke", 1, None)]


async def test_history_is_shown_and_erased_after_a_question(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("I")
        await it.until(lambda: backend.chats and backend.chats[0].prepared, "the engine is started")
        await it.press("escape")
        it.app.domains.focus()
        await it.press("H")
        await it.shows("Your chat history", "business: one")
        await it.press("escape", "X")
        await it.shows("Erase your chat history?")
        await it.press("enter")
        assert backend.wishes == []
        await it.press("X", "y")
        await it.shows("done: erase history")
        assert backend.chats[0].preferences == ["forgotten"]


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


async def test_a_question_after_a_failed_answer_goes_to_the_same_conversation(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend, (120, 60)) as it:
        await it.press("4")
        await it.write("one")
        await it.press("enter")
        await it.shows("Hello there")
        (chat,) = backend.chats
        for failure in (TaraError("the engine died twice"), RuntimeError("a fault")):
            chat.failure = failure
            await it.write("two")
            await it.press("enter")
            await it.shows(str(failure))
        await it.write("three")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        assert backend.chats == [chat]
        assert [question for question, _ in chat.questions] == ["one", "two", "two", "three"]
        assert not chat.closed.is_set()
        chat.failure = EngineClosed("the engine is closed")  # this one is over
        await it.write("four")
        await it.press("enter")
        await it.shows("the engine is closed")
        await it.write("five")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        assert chat.closed.is_set()
        assert backend.chats[1].questions == [("five", None)]


async def test_an_engine_that_could_not_be_warmed_keeps_the_conversation(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path)
    async with console(backend) as it:
        await it.press("i")
        await it.write("one")
        await it.press("enter")
        await it.until(lambda: it.app.chat.speed, "the answer")
        (chat,) = backend.chats
        chat.unprepared = TaraError("no memory")
        await it.press("escape", "escape")
        it.app.domains.focus()
        await it.press("I")
        await it.until(lambda: chat.unprepared is None, "the try")
        await it.write("two")
        await it.press("enter")
        await it.until(lambda: len(chat.questions) == 2, "the question")
        assert backend.chats == [chat]


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
    took = "2 tokens, 10 tokens/s, first after 0.10 s"
    assert rest == [Notice("call 112"), Token("two "), Token("words"), Done(2, 9.5, "eos", took)]
    routed = next(iter(chat.ask("hi", "legal")))
    assert isinstance(routed, Routed)
    assert routed.explanation == "legal (chosen by you; the router says: business (82%: its words))"
