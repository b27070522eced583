"""Crisis wording, found before any weighting: self-harm, suicide, abuse, and medical emergencies going on now.

A false alarm is cheap (help is shown above an ordinary answer), a miss is not; yet expressions know only the wordings
someone thought of: of 80 wordings written without a look at them, they found about half. Figures of speech are taken
out first ("kill the process", "dying to try it"). No diagnosis is made, and only the kind and the wording that matched
are kept. The expressions are in `crisis.txt` beside this file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SUICIDE, SELF_HARM, ABUSE, MEDICAL = "suicide", "self-harm", "abuse", "medical emergency"

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
}
HELP_LINES = (
    "Emergency numbers: 112 in Europe, 911 in the US and Canada, 999 in the UK. Free, confidential crisis lines by "
    "country are listed at findahelpline.com."
)

KINDS = (SUICIDE, SELF_HARM, ABUSE, MEDICAL)
_FIGURE, _OUTSIDE, _PERSONAL = "figure of speech", "from outside", "personal"
_EXPRESSIONS = Path(__file__).with_name("crisis.txt")


@cache  # compiled at the first message, not when the console starts
def _expressions() -> dict[str, re.Pattern[str]]:
    """The expressions of each section of `crisis.txt`, joined to one pattern."""
    parts: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    name = ""
    for line in _EXPRESSIONS.read_text("utf-8").splitlines():
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
    return {name: re.compile("|".join(lines)) for name, lines in sections.items()}


@dataclass(frozen=True)
class Crisis:
    """What was found: the kind, and the wording that showed it."""

    kind: str
    matched: str


def find_crisis(text: str) -> Crisis | None:
    """The first crisis wording in a text that `words.normalise` has been through, by kind: suicide, self-harm, abuse,
    medical emergency."""
    found = _expressions()
    plain = found[_FIGURE].sub(" ~ ", " ".join(text.lower().split()))
    if found[_OUTSIDE].search(plain) and not found[_PERSONAL].search(plain):
        return None
    for kind in KINDS:
        if match := found[kind].search(plain):
            return Crisis(kind, match.group())
    return None


def safest_domain(kind: str, tiers: Sequence[tuple[str, str]]) -> str | None:
    """The domain a crisis goes to: a critical one, of the fitting name first; None where there is none.

    `tiers` are pairs of domain name and safety tier.
    """
    critical = {name for name, tier in tiers if tier == "critical"}
    wanted = ("healthcare", "emergency_response") if kind == MEDICAL else ("mental_health", "healthcare")
    return next((name for name in wanted if name in critical), None)
