"""What people say when nothing is wrong: the lines the gate is trained beside, and lines nobody trained it on."""

from pathlib import Path

import pytest

from core.errors import InvalidInput
from core.routing import Desk
from core.training.crisis_data import TALK
from core.training.crisis_talk import risky, talk_cases, tidied

# Statements that ask nothing, with a feeling or without.
SAID = """What a view from up here!
I'm on the phone with the plumber.
We are looking forward to tomorrow and hope it will be good
I know you will keep your word, I trust you completely
She has always been honest with us and we rely on her
He said he'd meet us by the fountain.
We shook hands on it and now he wants double
I told him I loved him and he laughed
Thank you for letting me stay the week.
Nobody told me the shop had moved
They lied to me again and I am absolutely furious
I hate Mondays and I hate this coffee
My brother never puts the milk back.
I took it for a joke at first
That was the best cake I've ever had
Something under the fridge stinks to high heaven
I got the job! I've been dancing around the kitchen all morning
I'm nervous about the exam tomorrow
Everyone clapped at the end and my legs are still shaking
We lost the match and I let the team down
The referee had it in for us all afternoon
Not that song again, please, anything but that
You look tired, sit down and have some soup
He bakes a cake for each of us when we turn ten
I feel at home here.
My flatmate borrowed my jacket without asking, again
I have to get up at five
The bus was late, I was late, the boss was not amused
I miss the sea
I've decided to stay in Lisbon for another year
Something is wrong with the printer, it eats the paper
I was wrong and I said so
Her laugh is the first thing I noticed
We used to be close
The kids are asleep at last
I can't believe they gave us the whole building for free!
There's a spider in the sink and I am not touching it
I work nights and sleep through the day
Go away, it's my turn in the bathroom
Nothing new here, just rain""".splitlines()


def test_hardly_anything_that_is_said_is_a_crisis(desk: Desk) -> None:
    taken = [text for text in SAID if desk.route(text).crisis is not None]
    assert len(taken) <= len(SAID) // 20, taken


@pytest.mark.parametrize(
    ("given", "tidy"),
    [
        ("Well , if there 's been a mistake , it 's yours .", "Well, if there's been a mistake, it's yours."),
        ("I do n't know !", "I don't know!"),
        ("[RELIGION] is not for me", ""),
        ("Why?", ""),
        ("word " * 41, ""),
    ],
)
def test_lines_are_tidied(given: str, tidy: str) -> None:
    assert tidied(given) == tidy


def test_a_masked_name_becomes_one_and_always_the_same() -> None:
    line = tidied("[NAME] told [PERSON] the news")
    assert "[" not in line
    assert line == tidied("[NAME] told [PERSON] the news")


@pytest.mark.parametrize(
    "line", ["He took six pills in one hour", "I want to kill myself", "Please help me", "goodbye all"]
)
def test_lines_with_a_word_of_danger_stay_out(line: str) -> None:
    assert risky(line)


def test_lines_are_drawn_without_what_emotions_are_measured_on(tmp_path: Path) -> None:
    (tmp_path / "xed_en_train.tsv").write_text(
        "".join(f"The {colour} car in row {at} is new .\t5\n" for at in range(20) for colour in ("red", "green")),
        "utf-8",
    )
    (tmp_path / "xed_en_neutral_train.txt").write_text("9\tWe killed the lights .\n9\tThe soup is warm .\n", "utf-8")
    (tmp_path / "goemotions_train.tsv").write_text("Nice shoes , [NAME]\t0\tabc\n", "utf-8")
    (tmp_path / "goemotions_labels.txt").write_text("admiration\n", "utf-8")
    drawn = talk_cases(tmp_path, 100, seed=1)
    assert {case.label for case in drawn} == {TALK}
    assert 25 < len(drawn) < 42  # a fifth is held out
    assert not any("killed" in case.text for case in drawn)
    assert [case.text for case in talk_cases(tmp_path, 5, seed=1)] == [case.text for case in drawn[:5]]
    with pytest.raises(InvalidInput, match="emotion"):
        talk_cases(tmp_path / "nowhere", 5, seed=1)
