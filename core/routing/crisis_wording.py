"""What the words of a message say of a crisis: expressions someone thought of, in `crisis.txt` and, for languages other
than English, in `crisis_languages.txt`; and the classifier's reading of its letters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from core.routing.crisis_model import load_model
from core.routing.expressions import Expressions
from core.routing.words import STOPWORDS, Word, split_words

SUICIDE, SELF_HARM, ABUSE, MEDICAL, DANGER = "suicide", "self-harm", "abuse", "medical emergency", "danger now"
EMERGENCY = "emergency"  # of a kind that is not said
KINDS = (SUICIDE, SELF_HARM, ABUSE, MEDICAL)  # those the classifier knows
WORDED = (*KINDS, DANGER)  # fire, gas, an intruder, drowning: by certain expressions alone
_FIGURE, _OUTSIDE, _PERSONAL, _PAST, _NOW = "figure of speech", "from outside", "personal", "long past", "now"
_THING, _HARM = "asks about a thing", "harm"
_CERTAIN = "certain "
_EXPRESSIONS, _LANGUAGES = Path(__file__).with_name("crisis.txt"), Path(__file__).with_name("crisis_languages.txt")
_BARE = str.maketrans("áàâãäåéèêëíìîïóòôõöúùûüñç", "aaaaaaeeeeiiiiooooouuuunc")
# What may stand beside an emergency that is said and still leave it open which it is.
_CALLS_FOR_HELP = frozenset((
    "help", "please", "need", "now", "urgent", "urgently", "immediately", "quick", "quickly", "fast", "hurry", "asap",
    "someone", "somebody", "anyone", "hello", "hi",
))  # fmt: skip


@cache  # read at the first message, not when the console starts
def _expressions() -> dict[str, Expressions]:
    """The expressions of each section of `crisis.txt`."""
    return {name: Expressions(lines) for name, lines in _sections(_EXPRESSIONS).items()}


@cache
def _of_languages() -> dict[str, Expressions]:
    """The expressions of each section of `crisis_languages.txt`."""
    return {name: Expressions(lines) for name, lines in _sections(_LANGUAGES).items()}


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


class CrisisWording:
    """What the words of a text say, each thing looked for once, when asked for. `text` is from `words.normalise`."""

    def __init__(self, text: str, words: Sequence[Word] | None = None) -> None:
        """`words` are those of the text, where they are known."""
        self.text = text
        self.words = words if words is not None else split_words(text)
        self._lower = " ".join(text.lower().split())

    @cached_property
    def certain(self) -> Crisis | None:
        """The first expression that decides whatever stands beside it."""
        for kind in WORDED:
            if match := _expressions()[_CERTAIN + kind].search(self._lower):
                return Crisis(kind, match.group())
        for kind in WORDED:
            expressions = _of_languages().get(_CERTAIN + kind)
            if expressions is not None and (match := expressions.search(self._bare)):
                return Crisis(kind, match.group())
        return None

    @cached_property
    def said(self) -> Crisis | None:
        """The words by which somebody says that there is an emergency now, whichever it is."""
        match = _expressions()[EMERGENCY].search(self._lower) or _of_languages()[EMERGENCY].search(self._bare)
        return Crisis(EMERGENCY, match.group().strip()) if match and not self.excused else None

    @cached_property
    def only_said(self) -> bool:
        """Whether an emergency is `said`, and nothing of what it is."""
        if self.said is None:
            return False
        rest = self._bare.replace(self.said.matched.translate(_BARE), " ")
        return all(word.text in STOPWORDS or word.text in _CALLS_FOR_HELP for word in split_words(rest))

    @cached_property
    def excused(self) -> bool:
        """Whether something speaks for harmlessness: a figure of speech, a look from outside, a time past."""
        return self._literal != self._lower or self._harmless

    @cached_property
    def worded(self) -> Crisis | None:
        """The first uncertain expression that matches, by kind: suicide, self-harm, abuse, medical emergency."""
        if self._harmless:
            return None
        for kind in KINDS:
            if match := _expressions()[kind].search(self._literal):
                return Crisis(kind, match.group())
        return None

    @cached_property
    def by_letters(self) -> list[float]:
        """The classifier's reading of the letters: the logit of each class."""
        return load_model().letter_scores(self.text, self.words)

    def asks_about_a_thing(self, content: Sequence[Word]) -> bool:
        """Whether a message asks what something is, or to have it put into other words, and the thing is none of a
        crisis; `content` are its words that say something of their own. A thing that is only named ("goodbye",
        "pills") or asked the amount of is none."""
        found = _expressions()
        about = found[_THING].search(self._lower)
        return bool(about and content) and not any(found[_HARM].fullmatch(word.text) for word in content)

    @cached_property
    def _literal(self) -> str:
        """Without figures of speech."""
        return _expressions()[_FIGURE].sub(" ~ ", self._lower)

    @cached_property
    def _harmless(self) -> bool:
        """Whether it is a look from outside or of a time long past, figures of speech apart."""
        return _from_outside_or_past(self._literal)

    @cached_property
    def _bare(self) -> str:
        return self._lower.translate(_BARE)


def _from_outside_or_past(lower: str) -> bool:
    found = _expressions()
    return bool(
        (found[_OUTSIDE].search(lower) and not found[_PERSONAL].search(lower))
        or (found[_PAST].search(lower) and not found[_NOW].search(lower))
    )
