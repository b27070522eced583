"""What people say when nothing is wrong, for the crisis gate: film lines and forum comments of the emotion data.

Without them the gate took most statements that ask nothing for a crisis: what people write in one is rarely a question,
and invented harmless messages mostly are. Lines with a word of danger are left out, because nobody has said of them
whether they are a crisis.
"""

import random
import re
from pathlib import Path

from core.routing.crisis_wording import CrisisWording
from core.routing.emotion_data import read_rows
from core.routing.words import normalise
from core.training.crisis_data import TALK, Case

LEAST_WORDS, MOST_WORDS = 2, 40
# Stems of what a crisis may be told with. Whatever has one stays out: better ten harmless lines lost than one crisis
# learned as harmless.
_DANGER = re.compile(
    r"\b("
    r"abus|aliv|ambulanc|apart|attack|awak|bath|beat|bleed|blood|blue|bomb|bottle|breath|bridge|bruis|burn|bye"
    r"|choc?k|cliff|cold|collaps|cry|cried|cut|dead|death|deserv|die|disappear|doctor|dose|down|drank|drink|drown"
    r"|drug|drunk|dy|emergenc|empt|end|ending|enough|escap|faint|fall|fault|fell|fever|fight|finish|forc|forgiv|free"
    r"|funeral|give up|giving up|gone|goodby|gun|hang|hate|heart|heaven|hell|help|hid|hit|hopeless|hospital|hurt"
    r"|injur|jump|kill|knife|last|leav|left|let go|lett?er|lif|live|lock|lone|lost|medic|miss|monster|murder|never"
    r"|no one|nobody|note|numb|nurs|ocean|over|overdos|pain|pass(ed)? out|peace|pills?|pistol|poison|police|pregnan"
    r"|punch|push|rail|rap|rescu|rest|rifle|rope|safe|sav|scar|scream|shak|shoot|shot|sick|sister|skin|slap|sleep"
    r"|smack|sorry|stab|stairs|stop|strangl|stranger|struggl|suffer|suicid|surviv|swallow|tablet|terrif|threat|throat"
    r"|throw|tired|touch|trap|trembl|unconsci|vein|victim|viol|vomit|wake|wast|weak|wish|worth|wound|wrist"
    r")\w*",
    re.IGNORECASE,
)
_MASK = re.compile(r"\[(?:NAME|PERSON)\]")
_NAMES = ("Anna", "Tom", "Maria", "David", "Lena", "Sam", "Nora", "Omar")
_LOOSE = re.compile(r"\s+([.,!?;:%)]|'(?:s|t|re|ve|ll|d|m)\b|n't\b)")


def talk_cases(folder: Path, most: int, seed: int) -> list[Case]:
    """Harmless lines of a folder of emotion data (`docs/emotion.md`), `most` at most, drawn by `seed`.

    The fifth that emotions are measured on stays out. Raises InvalidInput for a folder without them.
    """
    lines = {tidied(row.text) for row in read_rows(folder) if row.source != "own" and row.fold is not None}
    usable = sorted(line for line in lines if line and not risky(line))
    random.Random(seed).shuffle(usable)
    return [Case(normalise(line), TALK) for line in usable[:most]]


def tidied(text: str) -> str:
    """A line as somebody would type it: without masks and the spaces of its tokens. Empty where more is masked."""
    chance = random.Random(text)
    text = _MASK.sub(lambda _: chance.choice(_NAMES), text)
    if "[" in text or not LEAST_WORDS <= len(text.split()) <= MOST_WORDS:
        return ""
    return _LOOSE.sub(r"\1", text).strip().removeprefix("- ").strip('"')


def risky(line: str) -> bool:
    """Whether a line might tell of a crisis."""
    return _DANGER.search(line) is not None or CrisisWording(normalise(line)).worded is not None
