"""Crisis wording, found before any weighting: self-harm, suicide, abuse, and medical emergencies and dangers of now.

Two stages. Expressions know the wordings someone thought of; some of them are certain and decide whatever stands beside
them, the others give way to figures of speech, a look from outside ("statistics of") and a time long past. A
classifier reads the message as a whole: with a sentence encoder from its vector under the gate's adapter, without one
from words and letters alone, which finds far less (`docs/routing.md` has both figures). No diagnosis is made, and only
the kind and the wording that matched are kept. The expressions are in `crisis_wording.py`, the classifier in
`crisis_model.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from core.routing.crisis_model import CrisisVectors, load_model
from core.routing.crisis_wording import (
    ABUSE,
    DANGER,
    EMERGENCY,
    KINDS,
    MEDICAL,
    SELF_HARM,
    SUICIDE,
    WORDED,
    Crisis,
    CrisisWording,
)
from core.routing.words import STOPWORDS

__all__ = [
    "ABUSE",
    "ADVICE",
    "DANGER",
    "EMERGENCY",
    "FOLLOWING",
    "HELP_LINES",
    "KINDS",
    "MEDICAL",
    "SELF_HARM",
    "SUICIDE",
    "WHOLE",
    "WORDED",
    "Crisis",
    "find_crisis",
    "follow_up",
    "in_doubt",
    "resources_for",
    "safest_domain",
]

# What is said by kind, before the configured help lines.
ADVICE = {
    SUICIDE: (
        "You do not have to be alone with this. Tell someone near you, and if you may act on these thoughts call your "
        "emergency number or go to the nearest emergency department now."
    ),
    SELF_HARM: (
        "You deserve help with this. If you are badly hurt, call your emergency number now; and tell someone you trust."
    ),
    ABUSE: (
        "What is happening is not your fault. If you are in danger now, get to a safe place if you can and call your "
        "emergency number."
    ),
    MEDICAL: (
        "This may be a medical emergency: call your emergency number now, and do not wait for an answer from a "
        "program. Stay with the person and do what the dispatcher says."
    ),
    DANGER: (
        "If you are in danger, get yourself and others to a safe place now, take nothing with you, and call your "
        "emergency number from there. Do not wait for an answer from a program."
    ),
    EMERGENCY: (
        "If this is an emergency, call your emergency number now, and do not wait for an answer from a program. Say "
        "where you are and what has happened, and do what the dispatcher says."
    ),
}
HELP_LINES = (
    "Emergency numbers: 112 in Europe, 911 in the US and Canada, 999 in the UK. Free, confidential crisis lines by "
    "country are listed at findahelpline.com."
)

_SAFEST = {
    MEDICAL: ("healthcare", "emergency_response"),
    DANGER: ("emergency_response", "healthcare"),
    EMERGENCY: ("emergency_response", "healthcare"),
}
WHOLE = "the message as a whole"  # in place of a wording, where the classifier found it
FOLLOWING = "a short message after a crisis"
# A message after a crisis goes on with it up to so many words, of which so many say something of their own.
_SHORT, _SHORT_CONTENT = 12, 1


def find_crisis(
    text: str | CrisisWording, vectors: CrisisVectors | None = None, previous: Crisis | None = None
) -> Crisis | None:
    """What crisis speaks from a text that `words.normalise` has been through, or its wording; None where none is found.

    `vectors` are the text's plain sentence vector and that under the gate's adapter (`crisis_model.adapter_of`), which
    is None where `in_doubt` said no; without them much less is found. `previous` is the crisis of the message before,
    which a short message goes on with. Same arguments, same answer; adding a certain wording to a text never hides a
    crisis.
    """
    wording = text if isinstance(text, CrisisWording) else CrisisWording(text)
    if wording.certain:
        return wording.certain
    no_doubt = vectors is not None and vectors[1] is None
    if wording.only_said or (no_doubt and wording.said is not None):
        return wording.said
    if no_doubt:
        return follow_up(wording, previous)
    if vectors is None and wording.worded is not None:
        return replace(wording.worded, probability=load_model().probability(wording, None)[0])
    if read := load_model().read(wording, vectors):
        probability, kind = read
        if wording.worded is not None:
            return replace(wording.worded, probability=probability)
        return Crisis(kind, WHOLE, probability)
    return wording.said or follow_up(wording, previous)


def in_doubt(text: str | CrisisWording, plain: Sequence[float], *, corrected: bool = False) -> bool:
    """Whether a text must be read under the gate's adapter for `find_crisis` to know: where neither a certain wording
    nor the other readings decide. `plain` is its sentence vector, `corrected` where that is of its corrected form."""
    wording = text if isinstance(text, CrisisWording) else CrisisWording(text)
    if wording.certain or wording.only_said:
        return False
    return load_model().in_doubt(wording, plain, corrected=corrected)


def follow_up(wording: CrisisWording, previous: Crisis | None) -> Crisis | None:
    """`previous` again where the text is a short message without a subject of its own ("I don't know", "what should I
    do"), else None. What it returns is the `previous` of the next message, so a person who says little stays."""
    if previous is None:
        return None
    content = [word for word in wording.words if word.text not in STOPWORDS]
    if len(wording.words) > _SHORT or len(content) > _SHORT_CONTENT or wording.asks_about_a_thing(content):
        return None
    return Crisis(previous.kind, FOLLOWING, previous.probability)


def safest_domain(kind: str, tiers: Sequence[tuple[str, str]]) -> str | None:
    """The domain a crisis goes to: a critical one, of the fitting name first; None where there is none.

    `tiers` are pairs of domain name and safety tier.
    """
    critical = {name for name, tier in tiers if tier == "critical"}
    wanted = _SAFEST.get(kind, ("mental_health", "healthcare"))
    return next((name for name in wanted if name in critical), None)


def resources_for(kind: str, resources: Mapping[str, str]) -> str:
    """What is shown in a crisis of a kind; the general advice where `resources` are older than the kind."""
    return resources.get(kind) or f"{ADVICE[kind]} {HELP_LINES}"
