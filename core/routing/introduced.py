"""A domain known by a few messages alone: what can be said of it in their words."""

from collections import Counter
from collections.abc import Iterable, Sequence

from core.routing.words import STOPWORDS, normalise, split_words

MOST_KEYWORDS = 12
LONGEST_DESCRIPTION = 400  # characters


def telling_words(messages: Sequence[str], others: Iterable[str]) -> list[str]:
    """Words that tell messages from `others`: in two of them at least, and rare elsewhere; the most frequent first."""
    mine = Counter(word for text in messages for word in _words_of(text))
    elsewhere = Counter(word for text in others for word in _words_of(text))
    rare = sum(elsewhere.values()) / 2000
    found = [word for word, count in mine.items() if count >= 2 and elsewhere[word] <= max(1.0, rare)]
    return sorted(found, key=lambda word: (-mine[word], word))[:MOST_KEYWORDS]


def described_by(messages: Sequence[str]) -> str:
    """A description that quotes the first messages, as many as there is room for."""
    quoted: list[str] = []
    for text in messages[:3]:
        said = f"\u201c{text}\u201d"
        if sum(map(len, quoted)) + len(said) > LONGEST_DESCRIPTION:
            break
        quoted.append(said)
    return f"What people ask, such as {', '.join(quoted)}." if quoted else "What people ask of it."


def _words_of(text: str) -> set[str]:
    words = split_words(normalise(text))
    return {word.text for word in words if word.text not in STOPWORDS and len(word.text) > 2 and word.text.isalpha()}
