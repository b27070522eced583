"""Smoke tests: the rules on their own, and the whole of it on a real engine with its report kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog.smoke import SmokePrompt
from core.chat.client import Done, Engine
from core.chat.session import Conversation, Turn
from core.chat.smoke import judge, run, summary
from core.phases.smoked import report_lines, smoked
from core.phases.smoking import smoke_phase
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.core.chat.conftest import FIVE
from tests.core.chat.stored import store_bundle

PROMPT = SmokePrompt(
    "prices", "Should I lower my prices in my shop?", 64, 5.0, contains=("price", "profit"), routed=True
)
GOOD = Done(
    "Keep your Price for now, and watch what your customers do.", 12, 30.0, 0.2, "eos", "business", waited_s=0.5,
    ids=tuple(range(12)),
)  # fmt: skip


@pytest.fixture(scope="module")
def turn(tiny_bundle: Path, tiny: Engine) -> Turn:
    """A turn that the router sent to business; it is never answered."""
    found = Conversation(tiny_bundle, engine=tiny).ask(PROMPT.prompt)
    assert found.decision.domain == "business"
    return found


def broken(turn: Turn, done: Done | None, prompt: SmokePrompt = PROMPT, domain: str = "business") -> tuple[str, ...]:
    """The rules an answer breaks."""
    turn.done = done
    return judge(prompt, domain, turn, False)


def test_a_good_answer_breaks_no_rule(turn: Turn) -> None:
    assert broken(turn, GOOD) == ()


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        ({"text": " \n"}, {"contains": ()}, "the answer is empty"),
        ({"text": "-- -- --"}, {"contains": ()}, "the answer is no language: not a single letter or digit"),
        ({"ids": (7,) * 40}, {}, "the answer is no language: 1 different tokens in 40"),
        ({"stopped_by": "length"}, {}, "it does not end within 64 tokens"),
        ({"waited_s": 9.5, "load_s": 2.0}, {}, "the first token came after 7.5 s, more than 5 s"),
        ({"text": "Wait and see."}, {}, "none of price, profit is in it"),
        ({"text": PROMPT.prompt.upper() + "! Well."}, {"contains": ()}, "it says the question again"),
        ({}, {"excludes": ("CUSTOMERS",)}, "'CUSTOMERS' is in it"),
        ({"text": "Price it.<|im_end|>"}, {}, "a token of a chat template is in it: <|im_end|>"),
        ({}, {"crisis": True}, "no help was shown before the answer"),
    ],
)
def test_each_rule_is_reached(turn: Turn, change: dict[str, object], rule: dict[str, object], said: str) -> None:
    found = broken(turn, replace(GOOD, **change), replace(PROMPT, **rule))  # type: ignore[arg-type]
    assert said in found
    assert len(found) == 1


def test_the_router_must_choose_the_domain_and_an_answer_must_come(turn: Turn) -> None:
    assert broken(turn, GOOD, domain="creative") == ("the router chose business, not creative",)
    assert broken(turn, GOOD, replace(PROMPT, routed=False), "creative") == ()
    assert broken(turn, None) == ("no answer came",)
    turn.fallback = "business could not answer: no file"
    assert broken(turn, GOOD) == ("business could not answer: no file",)
    turn.fallback = None


def test_time_to_load_is_not_counted(turn: Turn) -> None:
    assert broken(turn, replace(GOOD, waited_s=6.0, load_s=4.0)) == ()


def test_prompts_are_asked_one_by_one_and_an_engine_that_fails_is_a_broken_rule(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    long = SmokePrompt("long", "word " * 2000, 16, 60.0)
    crisis = SmokePrompt("crisis", "I want to kill myself", 16, 60.0, crisis=True, routed=True)
    told = []
    with Conversation(tiny_bundle, engine=Engine(tiny_bundle, n_ctx=512, threads=1)) as conversation:
        results = run(
            conversation, {"business": [long, replace(PROMPT, max_tokens=16)], "healthcare": [crisis]},
            lambda result, done, total: told.append((result.name, done, total)),
        )  # fmt: skip
    assert told == [("long", 1, 3), ("prices", 2, 3), ("crisis", 3, 3)]
    assert results[0].broken[0].startswith("no answer: the conversation has")
    # The tiny model says nonsense without an end; who answers, and that help is shown, is right.
    assert (results[1].answered, results[2].answered) == ("business", "healthcare")
    assert not any("router" in reason or "help" in reason for one in results[1:] for reason in one.broken)
    assert summary(results).startswith("0 of 3 passed; failed: business long, business prices, healthcare crisis")


def test_a_report_is_kept_with_the_bundle_and_shown(workspace: Workspace, tiny_bundle: Path) -> None:
    store_bundle(workspace, tiny_bundle)
    path = workspace.configs / "smoke.yaml"
    path.write_text(
        "rules: {max_tokens: 8}\n"
        "general:\n  words:\n    prompt: Say something.\n"
        "domains:\n  healthcare:\n    bad: {prompt: 'I want to kill myself', crisis: true, routed: true}\n"
    )
    with open_reader(workspace) as reader:
        assert reader.phase(1).smoke is None
        assert smoked(reader, reader.phase(1)) is None
    report = smoke_phase(workspace, 1)
    assert [(one.asked, one.name) for one in report.results] == [
        (name, prompt) for name in FIVE for prompt in (("bad", "words") if name == "healthcare" else ("words",))
    ]
    assert not report.passed
    with open_reader(workspace) as reader:
        phase = reader.phase(1)
        kept = smoked(reader, phase)
        assert phase.smoke is not None
        assert (phase.smoke.value, phase.smoke.n) == (0.0, 6)
        assert phase.smoke.method == f"canned prompts {report.sets_sha256[:8]}, greedy"
        by_domain = {domain.name: domain.measurements["smoke"] for domain in phase.domains}
        assert {name: one.n for name, one in by_domain.items()} == {n: 2 if n == "healthcare" else 1 for n in FIVE}
    assert kept == report.as_json()
    lines = report_lines(kept)
    assert lines[0] == report.line()
    assert " FAIL  business words: 8 tokens" in lines[1]
    assert "       it does not end within 8 tokens" in lines
    only = smoke_phase(workspace, 1, "creative")
    assert only.line().endswith("(creative only)")
    with open_reader(workspace) as reader:
        phase = reader.phase(1)
        assert phase.smoke is not None
        assert phase.smoke.n == 6  # of all domains, as it was
        assert smoked(reader, phase) == only.as_json()
