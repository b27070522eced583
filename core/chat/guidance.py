"""How an answer should sound, as one sentence added to the system prompt. The answer's own text is never edited."""

from core.routing.emotion import Emotion

LEAST_INTENSITY = 0.4
STRONG = 0.7
LEAST_CONFIDENCE = 0.35

# By emotion: what to ask of the model for a plain feeling, and for a strong one.
TONES: dict[str, tuple[str, str]] = {
    "joy": (
        "The person is glad: share it in a few words, then answer.",
        "The person is overjoyed: celebrate with them in one sentence, then answer.",
    ),
    "sadness": (
        "The person sounds sad: be gentle and acknowledge it before you answer.",
        "The person is in deep sadness: slow down, acknowledge it first, and offer one small step.",
    ),
    "anger": (
        "The person is annoyed: stay calm, do not argue, and be concrete.",
        "The person is very angry: stay calm, name what went wrong without blame, and give one concrete next step.",
    ),
    "fear": (
        "The person is worried: be reassuring and clear, and do not exaggerate risks.",
        "The person is very afraid: speak calmly in short sentences, and say first what can be done now.",
    ),
    "surprise": (
        "The person is surprised: explain plainly what happened.",
        "The person is shocked: give a moment to it, then explain plainly, one thing at a time.",
    ),
    "disgust": (
        "The person is put off: be matter-of-fact and considerate.",
        "The person is appalled: take it seriously, be matter-of-fact, and offer a way out.",
    ),
    "trust": (
        "The person is open and trusting: be honest about what you do not know.",
        "The person relies on you a great deal: be warm, and be honest about what you do not know.",
    ),
    "anticipation": (
        "The person is looking forward to something: be encouraging and practical.",
        "The person can hardly wait: be encouraging, and turn it into a first practical step.",
    ),
}
MIXED = "The person has mixed feelings ({first} and {second}): acknowledge both before you answer."
CRISIS = (
    "The person may be in danger. Be calm, kind and brief: urge them to call their emergency number or the help line "
    "they were shown, and not to stay alone. Do not diagnose, do not lecture, do not change the subject."
)


def tone_for(emotion: Emotion) -> str | None:
    """The sentence for a reading; None for a neutral, weak or doubtful one, which is answered as usual."""
    feeling = emotion.dominant
    if feeling is None or emotion.intensity < LEAST_INTENSITY or emotion.confidence < LEAST_CONFIDENCE:
        return None
    if len(emotion.mixed) > 1:
        return MIXED.format(first=emotion.mixed[0], second=emotion.mixed[1])
    plain, strong = TONES[feeling]
    return strong if emotion.intensity >= STRONG else plain
