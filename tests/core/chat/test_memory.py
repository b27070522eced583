"""What a conversation holds of a person: taken in, corrected, faded, forgotten; and what preferences change."""

import itertools
from dataclasses import replace

import pytest

from core.chat.memory import Memory, trusted
from core.chat.preference import PREFERENCES, preference
from core.errors import InvalidInput
from core.routing import Decision
from core.routing.crisis import Crisis
from core.routing.emotion import EMOTIONS, Emotion
from core.routing.past import HALF_LIFE_S, Moment, Past, past_of

GLAD = Emotion({**dict.fromkeys(EMOTIONS, 0.0), "joy": 0.8}, 0.8, 0.5)
DECISION = Decision("creative", 0.9, False, "its words", None, None, 0, 0.1, GLAD, (), {})


def test_messages_one_by_one_leave_what_all_of_them_leave() -> None:
    clock = {"now": 0.0}
    moments = [Moment(-HALF_LIFE_S, "business", {"fear": 0.6})]
    memory = Memory(moments, now=lambda: clock["now"])
    for at in (10.0, 5000.0, 90_000.0):
        clock["now"] = at
        memory.add(DECISION, "creative")
        moments.append(Moment(at, "creative", trusted(DECISION)))
        assert memory.past() == past_of(moments, at).rounded()
    assert trusted(DECISION)["joy"] == pytest.approx(0.4)  # 0.8, of which half is trusted
    clock["now"] = 1e9
    assert memory.past() == Past().rounded()


def test_the_newest_message_can_be_another_domains_after_all() -> None:
    memory = Memory(now=lambda: 0.0)
    memory.amend("business")  # nothing was taken in: nothing is corrected
    assert memory.past().domains == {}
    memory.add(DECISION, "creative")
    memory.add(DECISION, "creative")
    memory.amend("business")
    assert memory.past().domains == {"business": 1.0, "creative": 1.0}
    memory.amend("education")
    assert memory.past().domains == {"creative": 1.0, "education": 1.0}


def test_a_crisis_leaves_nothing_and_all_can_be_forgotten() -> None:
    memory = Memory(now=lambda: 0.0)
    memory.add(DECISION, "creative")
    before = memory.past()
    memory.add(replace(DECISION, crisis=Crisis("suicide", "x")), "healthcare")
    memory.amend("healthcare")
    assert memory.past() == before
    memory.forget()
    assert memory.past() == Past().rounded()


def test_preferences_differ_in_what_they_say_they_do() -> None:
    weights = {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1}
    found = {name: one.weights(weights) for name, one in PREFERENCES.items()}
    for one in found.values():
        assert sum(one.values()) == pytest.approx(1)
        assert (one["content"], one["emotion"]) == (0.4, 0.3)
    assert found["balanced"] == weights
    assert found["speed"]["quality"] == found["quality"]["speed"] == 0
    order = [PREFERENCES[name] for name in ("speed", "balanced", "quality")]
    assert [one.context for one in order] == sorted({one.context for one in order})
    assert [one.max_tokens for one in order] == sorted({one.max_tokens for one in order})
    with pytest.raises(InvalidInput, match="no preference 'fast'"):
        preference("fast")


def test_old_messages_go_several_at_a_time() -> None:
    """So that most prompts begin as the one before did."""
    fast = PREFERENCES["speed"]
    begins = []
    for turns in range(20):
        history = list(range(2 * turns))
        kept = fast.recent(history)
        assert list(kept) == history[len(history) - len(kept) :]
        assert len(kept) >= min(4, len(history))
        assert len(kept) <= 6
        begins.append(kept[0] if kept else 0)
    assert sum(one != other for one, other in itertools.pairwise(begins)) < 10
    assert PREFERENCES["balanced"].recent(list(range(40))) == list(range(40))
