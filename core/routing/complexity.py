"""How complex a message is: a slow, thorough domain is punished less for a complex one."""

import math
import re

from core.routing.words import Word

_JOINTS = frozenset({"and", "or", "because", "since", "while", "whereas", "if", "unless", "which", "who", "when", "so"})
_QUESTION = re.compile(r"\?+")


def complexity_of(text: str, words: list[Word]) -> float:
    """Complexity in [0, 1] from three counts: words, clauses and separate questions.

    Each count saturates, so that a pasted book is as complex as a page. A greeting is near 0, a one-clause question
    about 0.1, a paragraph with three questions above 0.6.
    """
    if not words:
        return 0.0
    clauses = words[-1].clause + 1 + sum(word.text in _JOINTS for word in words)
    questions = len(_QUESTION.findall(text))
    length = 1 - math.exp(-len(words) / 50)
    joints = 1 - math.exp(-(clauses - 1) / 5)
    asked = 1 - math.exp(-max(0, questions - 1))
    return round(0.5 * length + 0.3 * joints + 0.2 * asked, 4)
