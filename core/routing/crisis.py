"""Crisis wording, found before any weighting: self-harm, suicide, abuse, and medical emergencies and dangers of now.

Two stages. Expressions know the wordings someone thought of; some of them are certain and decide whatever stands beside
them, the others give way to figures of speech, a look from outside ("statistics of") and a time long past. A
classifier reads the message as a whole: with a sentence encoder from its vector under the gate's adapter, without one
from words and letters alone, which finds far less (`docs/routing.md` has both figures). No diagnosis is made, and only
the kind and the wording that matched are kept. The expressions are in `crisis.txt`, the classifier in
`crisis_model.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from core.routing.crisis_model import CrisisVectors, load_model
from core.routing.words import STOPWORDS, Word, split_words

SUICIDE, SELF_HARM, ABUSE, MEDICAL, DANGER = "suicide", "self-harm", "abuse", "medical emergency", "danger now"
EMERGENCY = "emergency"  # of a kind that is not said

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

KINDS = (SUICIDE, SELF_HARM, ABUSE, MEDICAL)  # those the classifier knows
WORDED = (*KINDS, DANGER)  # fire, gas, an intruder, drowning: by certain expressions alone
_FIGURE, _OUTSIDE, _PERSONAL, _PAST, _NOW = "figure of speech", "from outside", "personal", "long past", "now"
_THING, _HARM = "asks about a thing", "harm"
_CERTAIN = "certain "
_EXPRESSIONS, _LANGUAGES = Path(__file__).with_name("crisis.txt"), Path(__file__).with_name("crisis_languages.txt")
_KEYS = "keys"
_BARE = str.maketrans("áàâãäåéèêëíìîïóòôõöúùûüñç", "aaaaaaeeeeiiiiooooouuuunc")
_DEVANAGARI = "\u0900"  # its first letter; nothing before it needs the keys' test
_SAFEST = {
    MEDICAL: ("healthcare", "emergency_response"),
    DANGER: ("emergency_response", "healthcare"),
    EMERGENCY: ("emergency_response", "healthcare"),
}
# What may stand beside an emergency that is said and still leave it open which it is.
_CALLS_FOR_HELP = frozenset((
    "help", "please", "need", "now", "urgent", "urgently", "immediately", "quick", "quickly", "fast", "hurry", "asap",
    "someone", "somebody", "anyone", "hello", "hi",
))  # fmt: skip
WHOLE = "the message as a whole"  # in place of a wording, where the classifier found it
FOLLOWING = "a short message after a crisis"
# A message after a crisis goes on with it up to so many words, of which so many say something of their own.
_SHORT, _SHORT_CONTENT = 12, 1


@cache  # compiled at the first message, not when the console starts
def _expressions() -> dict[str, re.Pattern[str]]:
    """The expressions of each section of `crisis.txt`, joined to one pattern."""
    return {name: re.compile("|".join(lines)) for name, lines in _sections(_EXPRESSIONS).items()}


@cache
def _elsewhere() -> tuple[tuple[str, ...], dict[str, re.Pattern[str]]]:
    """The keys of `crisis_languages.txt`, and the expressions of each of its other sections, joined to one pattern."""
    sections = _sections(_LANGUAGES)
    keys = tuple(sections.pop(_KEYS))
    return keys, {name: re.compile("|".join(lines)) for name, lines in sections.items()}


def _sections(path: Path) -> dict[str, list[str]]:
    """The lines of each section of a file of expressions, with its parts put in."""
    parts: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
        elif not name:
            key, _, expression = line.partition(" = ")
            parts[f"<{key}>"] = expression
        else:
            for key, expression in parts.items():
                line = line.replace(key, expression)
            sections.setdefault(name, []).append(line)
    return sections


@dataclass(frozen=True)
class Crisis:
    """What was found: the kind, and the wording that showed it."""

    kind: str
    matched: str
    # How likely it is one, by the classifier; a certain expression is.
    probability: float = field(default=1.0, compare=False)


def find_crisis(text: str, vectors: CrisisVectors | None = None, previous: "Crisis | None" = None) -> "Crisis | None":
    """What crisis speaks from a text that `words.normalise` has been through; None where none is found.

    `vectors` are the text's plain sentence vector and that under the gate's adapter (`crisis_model.adapter_of`), which
    is None where `in_doubt` said no; without them much less is found. `previous` is the crisis of the message before,
    which a short message goes on with. Same arguments, same answer; adding a certain wording to a text never hides a
    crisis.
    """
    if certain := certain_match(text):
        return certain
    said = emergency_said(text)
    if said is not None and (only_said(text, said) or (vectors is not None and vectors[1] is None)):
        return said
    if vectors is not None and vectors[1] is None:
        return follow_up(text, previous)
    worded = expressions_match(text)
    if vectors is None and worded is not None:
        return replace(worded, probability=load_model().probability(text, None, True, excused(text))[0])
    if read := load_model().read(text, vectors, worded is not None, excused(text)):
        probability, kind = read
        if worded is not None:
            return replace(worded, probability=probability)
        return Crisis(kind, WHOLE, probability)
    return said or follow_up(text, previous)


def in_doubt(text: str, plain: Sequence[float], *, corrected: bool = False) -> bool:
    """Whether a text must be read under the gate's adapter for `find_crisis` to know: where neither a certain wording
    nor the other readings decide. `plain` is its sentence vector, `corrected` where that is of its corrected form."""
    said = emergency_said(text)
    if certain_match(text) or (said is not None and only_said(text, said)):
        return False
    worded = expressions_match(text) is not None
    return load_model().in_doubt(text, plain, worded, excused(text), corrected=corrected)


def certain_match(text: str) -> "Crisis | None":
    """The first expression that decides whatever stands beside it."""
    lower = " ".join(text.lower().split())
    for kind in WORDED:
        if match := _expressions()[_CERTAIN + kind].search(lower):
            return Crisis(kind, match.group())
    bare = lower.translate(_BARE)
    elsewhere = _in_other_languages(bare)
    for kind in WORDED:
        expression = elsewhere.get(_CERTAIN + kind)
        if expression is not None and (match := expression.search(bare)):
            return Crisis(kind, match.group())
    return None


def _in_other_languages(bare: str) -> Mapping[str, re.Pattern[str]]:
    """The expressions of other languages that might match a text of small letters without accents, by section."""
    keys, expressions = _elsewhere()
    could = max(bare, default="") >= _DEVANAGARI or any(key in bare for key in keys)
    return expressions if could else {}


def emergency_said(text: str) -> "Crisis | None":
    """The words by which somebody says that there is an emergency now, whichever it is."""
    lower = " ".join(text.lower().split())
    match = None
    if "emergency" in lower or "death" in lower:
        match = _expressions()[EMERGENCY].search(lower)
    bare = lower.translate(_BARE)
    if match is None and (expression := _in_other_languages(bare).get(EMERGENCY)) is not None:
        match = expression.search(bare)
    return Crisis(EMERGENCY, match.group().strip()) if match and not excused(text) else None


def only_said(text: str, said: Crisis) -> bool:
    """Whether a text says nothing of what the emergency is, which `said` was found in it."""
    rest = " ".join(text.lower().split()).translate(_BARE).replace(said.matched.translate(_BARE), " ")
    return all(word.text in STOPWORDS or word.text in _CALLS_FOR_HELP for word in split_words(rest))


def excused(text: str) -> bool:
    """Whether something in the text speaks for harmlessness: a figure of speech, a look from outside, a time past."""
    found, lower = _expressions(), " ".join(text.lower().split())
    return bool(
        found[_FIGURE].search(lower)
        or (found[_OUTSIDE].search(lower) and not found[_PERSONAL].search(lower))
        or (found[_PAST].search(lower) and not found[_NOW].search(lower))
    )


def expressions_match(text: str) -> "Crisis | None":
    """The first uncertain expression that matches, by kind: suicide, self-harm, abuse, medical emergency."""
    found = _expressions()
    plain = found[_FIGURE].sub(" ~ ", " ".join(text.lower().split()))
    if found[_OUTSIDE].search(plain) and not found[_PERSONAL].search(plain):
        return None
    if found[_PAST].search(plain) and not found[_NOW].search(plain):
        return None
    for kind in KINDS:
        if match := found[kind].search(plain):
            return Crisis(kind, match.group())
    return None


def follow_up(text: str, previous: "Crisis | None") -> "Crisis | None":
    """`previous` again where `text` is a short message without a subject of its own ("I don't know", "what should I
    do"), else None. What it returns is the `previous` of the next message, so a person who says little stays."""
    if previous is None:
        return None
    words = split_words(text)
    content = [word for word in words if word.text not in STOPWORDS]
    if len(words) > _SHORT or len(content) > _SHORT_CONTENT or _asks_about_a_thing(text, content):
        return None
    return Crisis(previous.kind, FOLLOWING, previous.probability)


def _asks_about_a_thing(text: str, content: Sequence[Word]) -> bool:
    """Whether a message asks what something is, or to have it put into other words, and the thing is none of a crisis.
    A thing that is only named ("goodbye", "pills") or asked the amount of stays with it."""
    found = _expressions()
    about = found[_THING].search(" ".join(text.lower().split()))
    return bool(about and content) and not any(found[_HARM].fullmatch(word.text) for word in content)


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
