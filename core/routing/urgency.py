"""How urgent a message says it is, from precise words only."""

import re

_LEVELS: tuple[tuple[int, re.Pattern[str]], ...] = (
    (
        3,
        re.compile(
            r"\bemergency\b(?! (?:fund|funds|exit|brake|contact|loan|plan|savings|kit|number|reserve|meeting|landing))"
            r"|\blife or death\b|\bevery second counts\b|\bbefore it'?s too late\b"
        ),
    ),
    (
        2,
        re.compile(
            r"\burgent(?:ly)?\b|\basap\b|\bas soon as possible\b|\bimmediately\b|\bright now\b|\bright away\b"
            r"|\bat once\b|\bthis (?:instant|minute|second)\b|\bhelp (?:me |us )?now\b|\bneed (?:\w+ ){1,3}now\b"
            r"|\bno time to (?:lose|waste)\b|\bhurry\b"
        ),
    ),
    (
        1,
        re.compile(
            r"\b(?:today|tonight)\b|\bby tomorrow\b|\bdue tomorrow\b|\bin (?:an|one|two|\d{1,2}) (?:hours?|minutes?)\b"
            r"|\bquickly\b|\bdeadline\b|\brunning out of time\b|\bas fast as (?:possible|you can)\b"
        ),
    ),
)
_DENIED = re.compile(
    r"\b(?:not|isn't|isnt|nothing|never|no|without|non)(?: |-)(?:so |very |really |that |any |an |at all |in a )?"
    r"(?:urgent(?:ly)?|emergency|immediately|asap|hurry|rush|right now|right away|today)\b|\bno deadline\b"
)
NAMES = ("none", "soon", "urgent", "emergency")


def urgency_of(text: str) -> int:
    """Urgency 0 (none) to 3 (emergency) of a text that `words.normalise` has been through.

    Denied urgency ("not urgent", "no rush") is taken out first. The level is that of the strongest word left: many
    urgent words do not add up to an emergency.
    """
    lowered = _DENIED.sub(" ", " ".join(text.lower().split()))
    return next((level for level, pattern in _LEVELS if pattern.search(lowered)), 0)
