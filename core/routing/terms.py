"""The terms beside content: emotion, speed and quality, each in [0, 1], with a note where nothing was measured.

A domain's terms follow from its own figures, that of speed beside the fastest domain's: another domain, worse in all
of them, moves nobody.
"""

from collections.abc import Collection, Mapping

from core.routing.emotion import NO_PREFERENCE, Emotion, suits

FEW_EXAMPLES = 10
# What is taken where nothing was measured. Held-out token accuracy of the starter phases' adapters was 0.27 to 0.39.
USUAL_QUALITY = 0.3
USUAL_SLOWNESS = 2.0  # times the fastest domain's
USUAL_LOAD_S = 1.0  # of a base that is not in memory
SPEED_NOT_MEASURED = "speed not measured"
QUALITY_NOT_MEASURED = "quality not measured"

Measured = Mapping[str, Mapping[str, float]]  # by domain, values by name


def emotion_terms(emotion: Emotion, profiles: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How well each domain's profile fits the feeling: 0.5, moved to the cosine by intensity and confidence.

    A neutral message gives every domain the same 0.5; so does a reading without confidence, and so has every message a
    domain whose profile says nothing, all eight emotions being alike.
    """
    pull = 0.0 if emotion.neutral else emotion.intensity * emotion.confidence
    if not pull:
        return dict.fromkeys(profiles, NO_PREFERENCE)
    return {
        name: NO_PREFERENCE + pull * (suits(emotion.values, profile) - NO_PREFERENCE)
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
    measured is taken to need twice the fastest time.
    """
    columns = {key: {name: values.get(key) for name, values in measured.items()} for key in ("tokens_per_s", "load_s")}
    firsts = {name: values.get("first_token_s") for name, values in measured.items()}
    missing = {name for name in measured if firsts[name] is None or not columns["tokens_per_s"][name]}
    times: dict[str, float] = {}
    for name in measured:
        if name in missing:
            continue
        seconds = (firsts[name] or 0.0) + answer_tokens / (columns["tokens_per_s"][name] or 1.0)
        if resident is not None and name not in resident:
            load = columns["load_s"][name]
            seconds += load if load is not None else USUAL_LOAD_S
        times[name] = max(seconds, 1e-6)
    fastest = min(times.values(), default=1.0)
    steepness = urgency / 2 * (1 - 0.5 * complexity)
    return {name: (fastest / times.get(name, USUAL_SLOWNESS * fastest)) ** steepness for name in measured}, missing


def quality_terms(measured: Measured) -> tuple[dict[str, float], set[str]]:
    """The measured quality of each domain, and the domains without one, which get what is usual.

    Where it is known on how few examples a value was measured, it is drawn to what is usual, as by FEW_EXAMPLES more
    examples of that: four lucky answers are not better than a hundred good ones.
    """
    terms: dict[str, float] = {}
    missing: set[str] = set()
    for name, entry in measured.items():
        value, count = entry.get("quality"), entry.get("quality_examples")
        if value is None:
            missing.add(name)
            value = USUAL_QUALITY
        elif count is not None:
            value = (value * count + USUAL_QUALITY * FEW_EXAMPLES) / (count + FEW_EXAMPLES)
        terms[name] = value
    return terms, missing
