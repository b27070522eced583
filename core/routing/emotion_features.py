"""What the emotion heads see of a message's wording, beside its embedding: words, pairs of words and marks."""

from itertools import pairwise

from core.routing.lexicon import NEGATORS
from core.routing.words import Word

NEGATION_REACH = 3  # words after a negation, within its clause, that are marked as negated
_LEAST_SHOUTED = 3  # letters of a word in capitals that counts as raised voice: "OK" and "I" do not


def wording_features(text: str, words: list[Word]) -> set[str]:
    """The features of a message: `text` from `words.normalise`, `words` from `words.split_words`.

    A word within reach of a negation counts as another word ("not_happy"), so that the heads can learn both; pairs are
    of neighbouring words so marked. The marks are `<!>`, `<!!>`, `<?>`, `<...>` and `<CAP>`.
    """
    marked: list[str] = []
    negated_until, clause = -1, -1
    for at, word in enumerate(words):
        if word.clause != clause:
            negated_until, clause = -1, word.clause
        marked.append(f"not_{word.text}" if at <= negated_until else word.text)
        if word.text in NEGATORS:
            negated_until = at + NEGATION_REACH
    found = set(marked)
    found.update(f"{first} {second}" for first, second in pairwise(marked))
    exclamations = text.count("!")
    found.update(
        mark
        for mark, there in (
            ("<!>", exclamations > 0),
            ("<!!>", exclamations > 1),
            ("<?>", "?" in text),
            ("<...>", "..." in text or "…" in text),
            ("<CAP>", any(word.capitals and len(word.text) >= _LEAST_SHOUTED for word in words)),
        )
        if there
    )
    return found
