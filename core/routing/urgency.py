"""How urgent a message says it is, from precise words only."""

from functools import cache

from core.routing.expressions import Expressions

# An emergency is one that somebody says there is, not one that plans, kits, services and lighting are named after: the
# word ends what is said, or what follows goes on about it.
_GOES_ON = (
    r"(?=[ ]*$|[ ]*[.!?,;:)]| (?:and|right|now|here|at|in|on|with|for|please|help|so|because|since|that|my|our|i|i'm|we"
    r"|he|she|they|what|how|where|who)\b)"
)
_SAID = (
    r"\b(?:(?:this|it|that|here|there)(?: is|'s)|is (?:this|it|that)|(?:i|we)(?: have|'ve| got| have got|'ve got))"
    rf" (?:really |clearly |now |truly )?an? (?:\w+ ){{0,2}}emergency\b{_GOES_ON}"
)
_CALLED = rf"(?:^|[.!?,;:] ?|\bhelp,? )(?:an )?emergency\b{_GOES_ON}"

LEVELS = (
    (
        3,
        (
            _SAID, _CALLED, r"\blife or death\b", r"\bevery second counts\b", r"\bbefore it'?s too late\b",
        ),
    ),
    (
        2,
        (
            r"\burgent(?:ly)?\b", r"\basap\b", r"\bas soon as possible\b", r"\bimmediately\b", r"\bright now\b",
            r"\bright away\b", r"\bat once\b", r"\bthis (?:instant|minute|second)\b", r"\bhelp (?:me |us )?now\b",
            r"\bneed (?:\w+ ){1,3}now\b", r"\bno time to (?:lose|waste)\b", r"\bhurry\b",
        ),
    ),
    (
        1,
        (
            r"\b(?:by|until|due|needs?|needed|must be|(?:have|has|had|got) to|gotta|finish|submit|deliver"
            r"|hand (?:it )?in)\b[^.!?,]{0,60}?\b(?:today|tonight)\b",
            r"\bby tomorrow\b", r"\bdue tomorrow\b", r"\bin (?:an|one|two|\d{1,2}) (?:hours?|minutes?)\b",
            r"\bquickly\b", r"\bdeadline\b", r"\brunning out of time\b", r"\bas fast as (?:possible|you can)\b",
        ),
    ),
)  # fmt: skip
DENIED = (
    r"\b(?:not|isn't|isnt|nothing|never|no|without|non)(?: |-)(?:so |very |really |that |any |an |at all |in a )?"
    r"(?:urgent(?:ly)?|emergency|immediately|asap|hurry|rush|right now|right away|today)\b",
    r"\bno deadline\b",
)  # fmt: skip
# "Right now" that only tells when: at the beginning of what somebody tells, or in a question about how things are.
PRESENT = (
    r"(?:^|(?<=[.!?] ))right now,? (?:i|i'm|im|we|we're|my|our|the|it|it's|he|she|they)\b",
    r"(?:^|(?<=[.!?] ))(?:what|who|where|which|how)(?:'s| is| are| far| many| much| old| long)\b[^.!?]*\bright now\b",
)  # fmt: skip
NAMES = ("none", "soon", "urgent", "emergency")


@cache  # read at the first message, not when the console starts
def _expressions() -> tuple[tuple[tuple[int, Expressions], ...], Expressions, Expressions]:
    return tuple((level, Expressions(lines)) for level, lines in LEVELS), Expressions(DENIED), Expressions(PRESENT)


def urgency_of(text: str) -> int:
    """Urgency 0 (none) to 3 (emergency) of a text that `words.normalise` has been through.

    Denied urgency ("not urgent", "no rush") and a "right now" that presses nobody are taken out first. The level is
    that of the strongest word left: many urgent words do not add up to an emergency.
    """
    levels, denied, present = _expressions()
    lowered = present.sub(" ", denied.sub(" ", " ".join(text.lower().split())))
    return next((level for level, said in levels if said.search(lowered)), 0)
