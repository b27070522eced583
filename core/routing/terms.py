"""The terms beside content: emotion, speed and quality, each in [0, 1], with a note where nothing was measured."""

from collections.abc import Collection, Mapping

from core.routing.data import median_of_others
from core.routing.emotion import Emotion, similarity

NO_PREFERENCE = 0.5
FEW_EXAMPLES = 10
SPEED_NOT_MEASURED = "speed not measured"
QUALITY_NOT_MEASURED = "quality not measured"

Measured = Mapping[str, Mapping[str, float]]  # by domain, values by name


def emotion_terms(emotion: Emotion, profiles: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How well each domain's profile fits the feeling: 0.5, moved to the cosine by intensity and confidence.

    A neutral message gives every domain the same 0.5; so does a reading without confidence.
    """
    pull = 0.0 if emotion.neutral else emotion.intensity * emotion.confidence
    return {
        name: NO_PREFERENCE + pull * (similarity(emotion.values, profile) - NO_PREFERENCE)
        for name, profile in profiles.items()
    }


def speed_terms(
    measured: Measured,
    *,
    answer_tokens: float,
    urgency: int,
    complexity: float,
    resident: Collection[str] | None,
) -> tuple[dict[str, float], set[str]]:
    """How fast each domain answers, and the domains that were not measured.

    The time of an answer is the first token, `answer_tokens` more, and the load where the domain's base is known not to
    be resident. The term is the fastest time over the domain's own, so that equal times are equal terms and, for an
    urgent message, twice the time is half the term. It is flatter the less urgent a message is (1 for all where it is
    not: who is not in a hurry is served by the right domain, not by the fastest) and the more complex. What was not
    measured is taken as the median of the others; with nothing measured at all the terms are all 0.5.
    """
    columns = {key: {name: values.get(key) for name, values in measured.items()} for key in ("tokens_per_s", "load_s")}
    firsts = {name: values.get("first_token_s") for name, values in measured.items()}
    missing = {name for name in measured if firsts[name] is None or not columns["tokens_per_s"][name]}
    if missing == set(measured):
        return dict.fromkeys(measured, NO_PREFERENCE), missing
    times: dict[str, float] = {}
    for name in measured:
        if name in missing:
            continue
        seconds = (firsts[name] or 0.0) + answer_tokens / (columns["tokens_per_s"][name] or 1.0)
        if resident is not None and name not in resident:
            load = columns["load_s"][name]
            seconds += load if load is not None else median_of_others(columns["load_s"], name, 0.0)
        times[name] = max(seconds, 1e-6)
    fastest = min(times.values())
    steepness = urgency / 2 * (1 - 0.5 * complexity)
    known: dict[str, float | None] = {name: (fastest / seconds) ** steepness for name, seconds in times.items()}
    return {name: known.get(name) or median_of_others(known, name, NO_PREFERENCE) for name in measured}, missing


def quality_terms(measured: Measured) -> tuple[dict[str, float], set[str]]:
    """The measured quality of each domain, and the domains without one (they get the median of the others).

    Where it is known on how few examples a value was measured, it is drawn to the mean of all, as by FEW_EXAMPLES more
    examples of that: four lucky answers are not better than a hundred good ones.
    """
    values = {name: entry.get("quality") for name, entry in measured.items()}
    known = [value for value in values.values() if value is not None]
    mean = sum(known) / len(known) if known else NO_PREFERENCE
    held: dict[str, float | None] = {}
    for name, value in values.items():
        count = measured[name].get("quality_examples")
        if value is not None and count is not None:
            value = (value * count + mean * FEW_EXAMPLES) / (count + FEW_EXAMPLES)
        held[name] = value
    missing = {name for name, value in values.items() if value is None}
    terms: dict[str, float] = {}
    for name, value in held.items():
        terms[name] = median_of_others(held, name, NO_PREFERENCE) if value is None else value
    return terms, missing
