"""A domain that cannot answer now is no candidate of the router: files, memory, and what failed a moment ago."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.catalog.model import Settings
from core.chat.client import Done, Engine
from core.chat.health import Health
from core.chat.only import OnlyOne
from core.chat.opening import open_conversation
from core.chat.protocol import EngineError, EngineTimeout, LowMemory
from core.chat.session import Conversation, Notice
from core.chat.subject import Subject
from core.routing.crisis import KINDS
from tests.core.chat.conftest import FIVE, SEEDED, write_bundle

LEAD = "How should I lead my team?"
COOLDOWN_S = 300.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, whose files may be broken."""
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy, symlinks=True)
    return copy


@pytest.fixture
def conversation(folder: Path, clock: Clock) -> Iterator[Conversation]:
    engine = Engine(folder, n_ctx=512, threads=1, health=Health(COOLDOWN_S, clock))
    with Conversation(folder, engine=engine, sampling=SEEDED) as made:
        yield made


def answered(conversation: Conversation, message: str, domain: str | None = None) -> tuple[str | None, str | None]:
    """Who answered, and why the general model took over where it did."""
    turn = conversation.ask(message, domain)
    assert isinstance(list(turn.events())[-1], Done)
    return turn.domain, turn.fallback


def damage(path: Path) -> None:
    """Another file of the same size: only reading it shows it."""
    data = path.read_bytes()
    path.write_bytes(data[:-4] + bytes(byte ^ 0xFF for byte in data[-4:]))


def test_a_domain_without_its_adapter_is_left_out_with_the_reason(conversation: Conversation, folder: Path) -> None:
    assert answered(conversation, LEAD) == ("leadership", None)
    conversation.reset()
    conversation.memory.forget()
    assert conversation.route(LEAD).domain == "leadership"  # and is kept in the cache
    adapter = folder / "adapters" / "leadership.gguf"
    whole = adapter.read_bytes()
    adapter.unlink()
    turn = conversation.ask(LEAD)
    assert turn.decision.unavailable == {"leadership": "leadership.gguf is missing"}
    assert "leadership" not in [candidate.domain for candidate in turn.decision.candidates]
    assert turn.domain != "leadership"
    assert isinstance(list(turn.events())[-1], Done)
    assert turn.fallback is None
    adapter.write_bytes(whole[:-8])
    reason = conversation.route(LEAD).unavailable["leadership"]
    assert reason == "leadership.gguf has another size than when the chat was opened"
    adapter.write_bytes(whole)
    assert answered(conversation, LEAD) == ("leadership", None)


def test_a_person_who_names_it_gets_the_real_error(conversation: Conversation, folder: Path) -> None:
    (folder / "adapters" / "leadership.gguf").unlink()
    turn = conversation.ask("hello", domain="leadership")
    assert turn.domain == "leadership"
    list(turn.events())
    assert "leadership.gguf cannot be read: No such file or directory" in (turn.fallback or "")


def test_a_domain_that_failed_is_left_out_during_the_cooldown_and_tried_after_it(
    conversation: Conversation, folder: Path, clock: Clock
) -> None:
    damage(folder / "adapters" / "leadership.gguf")
    domain, fallback = answered(conversation, LEAD)
    assert domain is None
    assert "differs from the manifest" in (fallback or "")
    clock.at += COOLDOWN_S - 1
    conversation.reset()
    turn = conversation.ask(LEAD)
    assert "differs from the manifest; it is left out for 300 s" in turn.decision.unavailable["leadership"]
    assert turn.domain != "leadership"
    list(turn.events())
    assert turn.fallback is None
    clock.at += 2
    conversation.reset()
    again = conversation.ask(LEAD)
    assert again.domain == "leadership"
    assert not again.decision.unavailable
    list(again.events())
    assert again.fallback is not None
    damage(folder / "adapters" / "leadership.gguf")  # it is whole again
    assert answered(conversation, LEAD, domain="leadership") == ("leadership", None)
    conversation.reset()
    assert conversation.route(LEAD).domain == "leadership"  # at once: it has answered


def test_a_silent_base_is_not_waited_for_again_with_every_question(
    tiny_model: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"), FIVE, tiny_model)
    with Engine(folder, n_ctx=512, threads=1, health=Health(COOLDOWN_S, clock)) as engine:
        conversation = Conversation(folder, engine=engine, sampling=SEEDED)
        get, tried = engine._pool.get, list[str]()

        def hung(base: object, *more: object) -> object:
            tried.append(base.name)  # type: ignore[attr-defined]
            if base.name == "first":  # type: ignore[attr-defined]
                raise EngineTimeout("the engine of base-first.gguf said nothing for 120 s")
            return get(base, *more)  # type: ignore[arg-type]

        monkeypatch.setattr(engine._pool, "get", hung)
        on_first = {name for name, adapter in engine.holdings.adapters.items() if adapter.base == "first"}
        assert "leadership" in on_first
        domain, fallback = answered(conversation, LEAD)
        assert (domain, "said nothing" in (fallback or "")) == (None, True)
        assert tried == ["first", "second"]
        for message in (LEAD, "What should I charge my customers?"):
            turn = conversation.ask(message)
            assert set(turn.decision.unavailable) == on_first
            list(turn.events())
        assert tried.count("first") == 1
        clock.at += COOLDOWN_S
        conversation.reset()
        assert conversation.ask(LEAD).domain == "leadership"


def test_a_base_that_does_not_fit_leaves_its_domains_out_and_the_error_stays(tiny_bundle: Path) -> None:
    with Engine(tiny_bundle, n_ctx=512, threads=1, budget=10**6) as engine:
        conversation = Conversation(tiny_bundle, engine=engine, sampling=SEEDED)
        turn = conversation.ask(LEAD)
        assert set(turn.decision.unavailable) == set(FIVE)
        assert (
            "beside its mapped file, 1 MB are left of what the chat may hold" in turn.decision.unavailable["business"]
        )
        assert turn.decision.reason == "no domain can answer now"
        assert turn.domain is None
        with pytest.raises(LowMemory):
            list(turn.events())


def test_a_domain_is_asked_again_as_soon_as_there_is_memory(tiny_bundle: Path) -> None:
    free = {"bytes": 10**12}
    with Engine(tiny_bundle, n_ctx=512, threads=1, available=lambda: free["bytes"]) as engine:
        conversation = Conversation(tiny_bundle, engine=engine, sampling=SEEDED)
        turn = conversation.ask(LEAD)
        free["bytes"] = 0  # gone between the decision and the start
        with pytest.raises(LowMemory):
            list(turn.events())
        free["bytes"] = 10**12
        assert engine.unavailable() == {}
        assert answered(conversation, LEAD) == ("leadership", None)


def test_a_loaded_base_fits_however_little_is_free(tiny_bundle: Path) -> None:
    free = {"bytes": 10**12}
    with Engine(tiny_bundle, n_ctx=512, threads=1, available=lambda: free["bytes"]) as engine:
        engine.prepare()
        free["bytes"] = 0
        assert engine.unavailable() == {}
        engine.n_ctx = 2048
        assert set(engine.unavailable()) in (set(), set(FIVE))  # whether its own memory is enough for a larger one


def test_where_no_general_model_is_there_the_domain_itself_says_what_is_wrong(folder: Path, tiny: Engine) -> None:
    whole = Subject.of_folder(folder)
    subject = Subject(
        whole.name, whole.folder, whole.holdings, whole.router, whole.routing_sha256, whole.prompts, False
    )
    for name in FIVE:
        (folder / "adapters" / f"{name}.gguf").unlink()
    with Conversation(subject, engine=Engine(folder, n_ctx=512, threads=1), sampling=SEEDED) as conversation:
        turn = conversation.ask(LEAD)
        assert turn.domain == "leadership"
        with pytest.raises(EngineError, match=r"leadership\.gguf cannot be read"):
            list(turn.events())


def test_a_crisis_goes_to_the_safest_domain_whatever_failed(conversation: Conversation, folder: Path) -> None:
    (folder / "adapters" / "healthcare.gguf").unlink()
    turn = conversation.ask("I want to kill myself")
    first, *rest = turn.events()
    assert first == Notice(turn.resources or "")
    assert isinstance(rest[-1], Done)


def test_the_only_adapter_there_is_is_left_out_too_but_not_its_crisis() -> None:
    only = OnlyOne("creative", dict.fromkeys(KINDS, "call somebody"))
    only.use("none")
    gone = {"creative": "creative.gguf is missing"}
    decision = only.route("a story about the sea", unavailable=gone)
    assert (decision.domain, decision.unavailable, decision.unsure) == (None, gone, True)
    assert only.route("a story about the sea").domain == "creative"
    crisis = only.route("I want to kill myself", unavailable=gone)
    assert (crisis.domain, crisis.crisis is not None) == ("creative", True)


def test_the_cooldown_is_the_settings(tiny_bundle: Path) -> None:
    with open_conversation(Subject.of_folder(tiny_bundle), Settings(chat_cooldown_s=7, encoder="none")) as conversation:
        health = conversation.engine.health
        health.failed("tiny", "business", "it broke")
        assert health.trouble("business", "tiny") == "it broke; it is left out for 7 s"
    assert Settings().chat_cooldown_s == COOLDOWN_S


def test_health_forgets_what_answered_and_doubts_a_base_that_failed_alone() -> None:
    clock = Clock()
    health = Health(10.0, clock)
    health.failed("base", "one", "it broke")
    assert health.trouble("one", "base") == "it broke; it is left out for 10 s"
    assert health.trouble("two", "base") is None
    health.failed("base", None, "it is silent")
    assert health.trouble("two", "base") == "it is silent; it is left out for 10 s"
    assert health.unfit == {"base"}
    clock.at += 10
    assert health.trouble("one", "base") is health.trouble("two", "base") is None
    assert health.unfit == {"base"}  # the general model is another one's as long as there is one
    health.failed("base", "two", "it is silent")
    assert health.trouble("one", "base") is not None
    health.answered("base", "one")
    assert health.trouble("one", "base") is health.trouble("two", "base") is None
    assert not health.unfit
    never = Health(0.0, clock)
    never.failed("base", "one", "it broke")
    assert never.trouble("one", "base") is None
