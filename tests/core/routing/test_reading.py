"""What is read in a message: words, urgency, complexity, emotion."""

import random

import pytest

from core.routing.complexity import complexity_of
from core.routing.content import Calibration, ContentModel
from core.routing.emotion import EMOTIONS, LOW_CONFIDENCE, Emotion, read_emotion, similarity
from core.routing.lexicon import WORDS
from core.routing.urgency import urgency_of
from core.routing.words import content_stems, normalise, split_words, stem, stem_phrase


def read(text: str) -> Emotion:
    plain = normalise(text)
    return read_emotion(plain, split_words(plain))


def urgency(text: str) -> int:
    return urgency_of(normalise(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [("teams", "team"), ("managing", "manages"), ("stories", "story"), ("planned", "plan"), ("prices", "pricing")],
)
def test_forms_of_a_word_share_a_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_words_keep_their_boundaries() -> None:
    stems = [stem(word.text) for word in split_words(normalise("I don’t know the MARKETplace's cash-flow"))]
    assert "now" not in stems
    assert "don't" in stems
    model = ContentModel(
        {"a": {}, "b": {}}, {"a": [stem_phrase("cash flow")], "b": [stem_phrase("market")]}, Calibration()
    )
    found = model.evidence(split_words(normalise("I don’t know the MARKETplace's cash-flow")))
    assert found.keywords["a"] > 0
    assert found.keywords["b"] == 0
    assert content_stems(split_words("I know that you do 12 things")) == []


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Do you know how snow forms?", 0),
        ("I want to learn about help desks", 0),
        ("This is not urgent at all", 0),
        ("No rush, whenever you can", 0),
        ("How large should an emergency fund be?", 0),
        ("I need it today", 1),
        ("It has to be ready by tonight", 1),
        ("I am so happy today", 0),
        ("What shall I cook tonight?", 0),
        ("The report is due tomorrow", 1),
        ("I need this ASAP", 2),
        ("please answer right now", 2),
        ("help me now", 2),
        ("URGENT: server down", 2),
        ("this is an emergency", 3),
        ("I have a medical emergency", 3),
        ("We've got an emergency at the office, the pipes burst", 3),
        ("Emergency! My server is down", 3),
        ("Is this an emergency?", 3),
        ("It's a real emergency and nobody answers", 3),
        ("What should I pack in an emergency bag?", 0),
        ("How do I train staff for emergency response?", 0),
        ("Where is the emergency room parking?", 0),
        ("I work for the emergency services, how do I become a paramedic?", 0),
        ("We need emergency lighting in the hall", 0),
        ("I have an emergency shelter design to hand in", 0),
        ("The state of emergency in France after 2015", 0),
        ("What counts as an emergency?", 0),
        ("Right now I am learning Spanish", 0),
        ("How far away is the moon right now?", 0),
        ("What do I do right now?", 2),
        ("I need a plumber right now", 2),
    ],
)
def test_urgency_comes_from_precise_words(text: str, level: int) -> None:
    assert urgency(text) == level


def test_adding_urgent_words_never_lowers_urgency() -> None:
    for text in ("hello", "not urgent", "an emergency", "due tomorrow", "no rush please", ""):
        assert urgency(f"{text}. right now, urgent") >= urgency(text)


def test_complexity_grows_with_length_clauses_and_questions() -> None:
    texts = [
        "",
        "hi",
        "What is a cell?",
        "What is a cell, and how does it divide when it grows?",
        "We grew fast, and costs rose, because two people left. " * 4 + "Should I hire? Whom? When? What if it fails?",
    ]
    values = [complexity_of(text, split_words(text)) for text in texts]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[1] < 0.1
    assert values[-1] > 0.6
    assert complexity_of("why? " * 5000, split_words("why? " * 5000)) <= 1


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("I am so happy about my new job", "joy"),
        ("I feel lonely and I cried all day", "sadness"),
        ("I'm furious with them", "anger"),
        ("I'm terrified of the exam", "fear"),
        ("wow, I did not see that coming, unbelievable", "surprise"),
        ("that is disgusting", "disgust"),
        ("I trust you completely and rely on you", "trust"),
        ("I can't wait for the trip, looking forward to it", "anticipation"),
    ],
)
def test_the_eight_emotions_are_read(text: str, emotion: str) -> None:
    reading = read(text)
    assert reading.dominant == emotion
    assert 0 < reading.confidence <= LOW_CONFIDENCE
    assert set(reading.values) == set(EMOTIONS)


def test_every_emotion_has_enough_words() -> None:
    for emotion, tiers in WORDS.items():
        assert 40 <= sum(len(tier.split()) for tier in tiers) <= 90, emotion


@pytest.mark.parametrize("text", ["", "The measurement was made with a painting", "Which train goes to Venice?", "😐"])
def test_neutral_is_possible_and_words_inside_words_say_nothing(text: str) -> None:
    reading = read(text)
    assert reading.neutral
    assert reading.dominant is None
    assert reading.intensity == 0
    assert reading.confidence == 0


def test_negation_takes_an_emotion_away() -> None:
    assert read("I am not angry").neutral
    assert read("I'm not really very angry").values["anger"] == 0
    unhappy = read("I am not happy")
    assert unhappy.values["joy"] == 0
    assert unhappy.dominant == "sadness"
    assert read("Not now. I am happy").dominant == "joy"  # the negation ended with its sentence
    assert read("I'm not sad, but furious").dominant == "anger"


def test_intensity_follows_boosters_dampeners_capitals_and_marks() -> None:
    order = ["I am a bit angry", "I am angry", "I am very angry", "I am extremely angry!!!"]
    values = [read(text).intensity for text in order]
    assert values == sorted(values)
    assert len(set(values)) == 4
    assert read("I am ANGRY").intensity > read("I am angry").intensity
    assert read("I AM ANGRY").intensity == read("I am angry").intensity  # all in capitals says nothing of one word
    assert read("I am annoyed").intensity < read("I am angry").intensity < read("I am furious").intensity


def test_mixed_feelings_are_named() -> None:
    reading = read("I am happy about the job but scared of moving")
    assert set(reading.mixed) == {"joy", "fear"}
    assert read("I am happy").mixed == ()


def test_values_stay_in_range_whatever_is_said() -> None:
    rng = random.Random(5)
    words = [word for tiers in WORDS.values() for tier in tiers for word in tier.replace("_", " ").split()]
    words += ["not", "very", "so", "a bit", "but", "!", "I", "😡", "?"]
    for _ in range(300):
        reading = read(" ".join(rng.choice(words) for _ in range(rng.randint(0, 40))))
        assert all(0 <= value <= 1 for value in reading.values.values())
        assert 0 <= reading.intensity <= 1
        assert (reading.intensity > 0) is not reading.neutral
        assert reading.confidence <= LOW_CONFIDENCE


def test_similarity_is_a_cosine() -> None:
    joy = {"joy": 1.0}
    assert similarity(joy, {"joy": 0.3}) == pytest.approx(1)
    assert similarity(joy, {"fear": 1.0}) == 0
    assert similarity(joy, {}) == 0
