"""The texts the emotion heads are trained and measured on, as they are given, with their labels and their split.

XED (Öhman et al., 2020; film subtitles, CC BY 4.0) has the eight emotions; GoEmotions (Demszky et al., 2020; forum
comments, Apache-2.0) has 27 others, of which 25 are mapped. Neither is part of TARA. Both lack what people ask an
assistant, which a few hundred messages of the project's own writing add.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidInput
from core.routing.lexicon import EMOTIONS

XED_FILE = "xed_en_train.tsv"
ATTRIBUTION = (
    "XED by Emily Öhman, Marc Pàmies, Kaisla Kajava and Jörg Tiedemann (CC BY 4.0) and GoEmotions by Dorottya Demszky "
    "et al., Google (Apache-2.0)"
)
NEUTRAL_FILE = "xed_en_neutral_train.txt"
GO_FILE = "goemotions_train.tsv"
GO_NAMES_FILE = "goemotions_labels.txt"
OWN_FILE = Path(__file__).with_name("own_messages.txt")
_XED = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")  # labels 1 to 8
# A judgement, most of all for trust and anticipation. Embarrassment has no place among the eight; curiosity has one,
# but a curious question to an assistant holds no feeling that its answer should heed.
_GO = {
    "joy": ("joy", "amusement", "love", "relief", "pride"),
    "sadness": ("sadness", "grief", "disappointment", "remorse"),
    "anger": ("anger", "annoyance"),
    "fear": ("fear", "nervousness"),
    "surprise": ("surprise", "realization", "confusion"),
    "disgust": ("disgust", "disapproval"),
    "trust": ("admiration", "approval", "caring", "gratitude"),
    "anticipation": ("optimism", "desire", "excitement"),
}
_PLAIN_OF_GO = frozenset(("neutral", "curiosity"))
_EIGHT_OF_GO = {label: emotion for emotion, labels in _GO.items() for label in labels}
FOLDS = 4  # of the rows that are not held out
_PARTS, _HELD_OUT = 20, 4


@dataclass(frozen=True)
class Row:
    """One text with those of the eight emotions it was labelled with. `source`: xed, go or own."""

    text: str
    emotions: frozenset[str]
    neutral: bool
    source: str

    @property
    def fold(self) -> int | None:
        """Which fold of the cross-fitting the row is in, from 0 to FOLDS - 1; None: held out for measuring.

        Own rows never are. Of others the last eight hexadecimal digits of the text's SHA-256, modulo 20, decide, so
        that equal texts stay together: below 4 it is held out, a fifth. That says nothing of the whole number modulo 5,
        by which the given rows were chosen.
        """
        if self.source == "own":
            return len(self.text) % FOLDS
        part = int(hashlib.sha256(self.text.encode("utf-8")).hexdigest()[-8:], 16) % _PARTS
        return None if part < _HELD_OUT else (part - _HELD_OUT) * FOLDS // (_PARTS - _HELD_OUT)


def read_rows(folder: Path) -> list[Row]:
    """All rows of a data folder, or of its subfolder `emotion`, and the project's own. Raises InvalidInput naming the
    file and line."""
    place = folder if (folder / XED_FILE).is_file() else folder / "emotion"
    rows = [_xed(*line) for line in _lines(place / XED_FILE, 2)]
    rows += [Row(text, frozenset(), True, "xed") for _, (_, text) in _lines(place / NEUTRAL_FILE, 2, text_last=True)]
    names = [fields[0] for _, fields in _lines(place / GO_NAMES_FILE, 1)]
    rows += [_go(where, fields, names) for where, fields in _lines(place / GO_FILE, 3)]
    return rows + labelled(OWN_FILE, "own")


def labelled(path: Path, source: str) -> list[Row]:
    """The rows of a file of the project's own: emotions by comma, or neutral, TAB, the text; # begins a comment."""
    rows = []
    for where, (labels, text) in _lines(path, 2, text_last=True, comments=True):
        named = frozenset(labels.split(","))
        if not named <= {*EMOTIONS, "neutral"}:
            raise InvalidInput(f"{where}: {labels!r} are none of the eight emotions")
        rows.append(Row(text, named - {"neutral"}, "neutral" in named, source))
    return rows


def held_out(rows: Sequence[Row]) -> list[Row]:
    """XED's rows of the held-out fifth, neutral ones included."""
    return [row for row in rows if row.source == "xed" and row.fold is None]


def _xed(where: str, fields: list[str]) -> Row:
    text, labels = fields
    try:
        return Row(text, frozenset(_XED[int(label) - 1] for label in labels.split(",")), False, "xed")
    except (ValueError, IndexError) as error:
        raise InvalidInput(f"{where}: {labels!r} are no labels from 1 to 8") from error


def _go(where: str, fields: list[str], names: list[str]) -> Row:
    text, labels, _ = fields
    try:
        named = [names[int(label)] for label in labels.split(",")]
    except (ValueError, IndexError) as error:
        raise InvalidInput(f"{where}: {labels!r} are no labels of {GO_NAMES_FILE}") from error
    eight = frozenset(_EIGHT_OF_GO[name] for name in named if name in _EIGHT_OF_GO)
    return Row(text, eight, _PLAIN_OF_GO.issuperset(named), "go")


def _lines(path: Path, columns: int, *, text_last: bool = False, comments: bool = False) -> list[tuple[str, list[str]]]:
    """Where each line stands, and its columns; tabs beyond them are the text's, which comes first or last."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", "name the folder with the data, see docs/emotion.md"
        ) from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or (comments and line.startswith("#")):  # XED has rows of tabs alone
            continue
        line = line.removesuffix("\r")
        fields = line.split("\t", columns - 1) if text_last else line.rsplit("\t", columns - 1)
        if len(fields) != columns:
            raise InvalidInput(f"{path}, line {number}: {len(fields)} columns, {columns} are expected")
        found.append((f"{path}, line {number}", fields))
    return found
