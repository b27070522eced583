"""The long chat, short and on the tiny model: `python -m tests.soak_chat` holds the long one on a release."""

from pathlib import Path

from tests.soak_chat import MOST_GROWTH, Soaked, lines, soak


def test_a_chat_over_five_domains_says_what_fresh_engines_say_and_survives_a_kill(tiny_bundle: Path) -> None:
    found = soak(tiny_bundle, 45, compare_every=11)
    assert found.different == []
    assert found.turns == 45
    assert found.switches > 25
    assert found.compared >= 5
    assert found.restarts == 1
    assert len(found.own) == 2
    assert found.reused > 0  # where a domain answers twice in a row
    assert found.passed, "\n".join(lines(found))


def test_a_soak_that_saw_something_wrong_does_not_pass() -> None:
    flat, rising = [100_000_000] * 30, [100_000_000 + MOST_GROWTH // 5 * n for n in range(30)]
    assert Soaked(restarts=1, own={1: flat}).passed
    assert Soaked(own={1: rising}).growth() == 2 * MOST_GROWTH
    assert not Soaked(restarts=1, own={1: rising}).passed
    assert not Soaked(restarts=1, own={1: flat}, different=["one"]).passed
    assert not Soaked(restarts=0, own={1: flat}).passed
