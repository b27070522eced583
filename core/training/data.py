"""Training examples: found, read, checked, split and described, without any model library."""

import codecs
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.catalog.names import is_domain_name
from core.errors import InvalidInput
from core.training.formats import FORMAT_HELP, RecordFault, parse_record
from core.workspace import Workspace

SUFFIXES = (".jsonl", ".json")
FEWEST_EXAMPLES = 2
_WIDE_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Example:
    """One conversation to learn from: user and assistant in turn, ending on the assistant.

    `line` is where it starts in its file, from 1. `system` is the system message the file gave it; training puts the
    domain's own in its place.
    """

    messages: tuple[dict[str, str], ...]
    line: int
    system: str = ""


@dataclass(frozen=True)
class DataReport:
    """What a set of examples looks like. Lengths are means in words; rates are shares of 1."""

    examples: int
    answers: int
    duplicates: int  # examples whose whole conversation occurred before
    duplicate_rate: float
    repeated_answer_rate: float  # share of the answers that are word for word equal to an earlier one
    common_ending: str  # the last sentence most answers share, '' where each is unlike the others
    common_ending_rate: float
    mean_question_words: float
    mean_answer_words: float
    longest_example_words: int
    own_system: int  # examples that bring a system message, which the domain's replaces


def find_data(workspace: Workspace, domain: str) -> Path:
    """The file a domain is trained on: the person's own under `data/`, else the starter data that came along.

    Raises InvalidInput when there is none, saying where it looked and which format is read, or when two compete.
    """
    if not is_domain_name(domain):
        raise InvalidInput(f"{domain!r} is not a domain name", "use small letters, digits and underscores")
    own = [workspace.data / f"{domain}{suffix}" for suffix in SUFFIXES]
    there = [path for path in own if path.is_file()]
    if len(there) > 1:
        names = " and ".join(workspace.relative(path) for path in there)
        raise InvalidInput(f"{domain} has two data files, {names}", "keep one of them, or name one with --data")
    starter = workspace.configs / "starter_data" / f"{domain}.jsonl"
    if there or starter.is_file():
        return there[0] if there else starter
    places = ", ".join(workspace.relative(path) for path in [*own, starter])
    raise InvalidInput(f"no training data for {domain}: looked for {places}", f"write {own[0]}: {FORMAT_HELP}")


def read_examples(path: Path) -> list[Example]:
    """Read and check a file of examples; its format is recognised by its content, record by record.

    A file is JSON Lines or one JSON list, UTF-8, with or without a byte order mark. Raises InvalidInput naming the
    file, the line (and for a list the element) of the first fault and how many more there are.
    """
    text = _read_text(path)
    is_list = text.lstrip()[:1] == "["
    examples: list[Example] = []
    faults: list[str] = []
    for place, line, record in _list_records(path, text) if is_list else _line_records(text):
        try:
            if isinstance(record, ValueError):
                raise RecordFault(f"not JSON: {_reason(record)}")
            conversation = parse_record(record)
            examples.append(Example(conversation.messages, line, conversation.system))
        except RecordFault as fault:
            faults.append(f"{path}, {place}: {fault}")
    if faults:
        more = f" (and {len(faults) - 1} more faults in this file)" if len(faults) > 1 else ""
        raise InvalidInput(faults[0] + more, f"expected {FORMAT_HELP}")
    if len(examples) < FEWEST_EXAMPLES:
        found = "is empty" if not examples else "holds a single example"
        raise InvalidInput(
            f"{path} {found}: at least {FEWEST_EXAMPLES} are needed, one to train on and one to hold out",
            f"give a few dozen; expected {FORMAT_HELP}",
        )
    return examples


def split_examples(
    examples: Sequence[Example], seed: int, held_out_fraction: float = 0.2
) -> tuple[list[Example], list[Example]]:
    """Divide examples into those trained on and those held out, each in file order: `(train, held_out)`.

    The choice depends on the seed and the text alone, so that a line added or moved leaves most others where they
    were. Examples with the same first question stay together: were they on both sides, the held-out accuracy would
    measure memory. About `held_out_fraction` are held out, at least 2 where there are 4 examples, at most half.
    Raises InvalidInput where no such division exists.
    """
    if not 0 < held_out_fraction < 1:
        raise InvalidInput(f"held_out_fraction is {held_out_fraction}, it must lie between 0 and 1")
    if len(examples) < FEWEST_EXAMPLES:
        raise InvalidInput(
            f"{len(examples)} example{'' if len(examples) == 1 else 's'} cannot be divided into training and held-out",
            f"give at least {FEWEST_EXAMPLES}, better a few dozen",
        )
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(_normalised(example.messages[0]["content"]), []).append(index)
    if len(groups) < 2:
        raise InvalidInput(
            f"all {len(examples)} examples ask the same question, so none can be held out",
            "give examples with different questions",
        )
    ordered = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    wanted = min(max(2, round(len(examples) * held_out_fraction)), len(examples) // 2)
    held: set[int] = set()
    for key in ordered:
        if len(held) + len(groups[key]) <= wanted:
            held.update(groups[key])
    if not held:  # each question is asked more often than examples are wanted: the rarest question is held out
        held.update(groups[min(ordered, key=lambda key: len(groups[key]))])
    train = [example for index, example in enumerate(examples) if index not in held]
    return train, [example for index, example in enumerate(examples) if index in held]


def data_report(examples: Sequence[Example]) -> DataReport:
    """Count duplicates, repeated answers and a sentence that answers keep ending on, and take mean lengths in words."""
    if not examples:
        raise InvalidInput("there are no examples to report on")
    conversations = [tuple(_normalised(message["content"]) for message in example.messages) for example in examples]
    questions = [message["content"] for example in examples for message in example.messages[0::2]]
    answers = [message["content"] for example in examples for message in example.messages[1::2]]
    duplicates = len(conversations) - len(set(conversations))
    repeated = len(answers) - len({_normalised(answer) for answer in answers})
    ending, count = Counter(_last_sentence(answer) for answer in answers).most_common(1)[0]
    return DataReport(
        examples=len(examples),
        answers=len(answers),
        duplicates=duplicates,
        duplicate_rate=duplicates / len(examples),
        repeated_answer_rate=repeated / len(answers),
        common_ending=ending if count > 1 else "",
        common_ending_rate=count / len(answers) if count > 1 else 0.0,
        mean_question_words=statistics.fmean(len(question.split()) for question in questions),
        mean_answer_words=statistics.fmean(len(answer.split()) for answer in answers),
        longest_example_words=max(sum(len(part.split()) for part in parts) for parts in conversations),
        own_system=sum(bool(example.system) for example in examples),
    )


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "check the name and its permissions") from error
    if raw.startswith(_WIDE_BOMS):
        raise InvalidInput(f"{path}, line 1: not UTF-8 but UTF-16 or UTF-32", "save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        raise InvalidInput(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x})", "save it as UTF-8") from error


def _line_records(text: str) -> Iterator[tuple[str, int, object]]:
    """Each line's place, number and JSON value, or the ValueError that says why it is none. Empty lines are passed."""
    # Not splitlines(): it also breaks at U+2028 and its like, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", number, json.loads(line)
            except RecursionError:
                yield f"line {number}", number, ValueError("nested too deeply")
            except ValueError as error:
                yield f"line {number}", number, error


def _list_records(path: Path, text: str) -> Iterator[tuple[str, int, object]]:
    """Each element of one JSON list with its number and line. Raises InvalidInput where the list itself is broken."""
    position = _skip_space(text, text.index("[") + 1)
    number, line, counted = 1, 1, 0
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken_list(path, number, line, error) from error
        yield f"element {number}, line {line}", line, value
        position = _skip_space(text, position)
        follower = text[position : position + 1]
        closed = follower == "]"
        if not closed:
            if follower != ",":
                reason = "a comma or the closing bracket is missing after it"
                raise _broken_list(path, number, line, ValueError(reason))
            position = _skip_space(text, position + 1)
            number += 1
    rest = _skip_space(text, position + 1)
    if rest < len(text):
        place = text.count("\n", 0, rest) + 1
        raise InvalidInput(f"{path}, line {place}: something follows the closing bracket of the list", "remove it")


def _broken_list(path: Path, number: int, line: int, error: Exception) -> InvalidInput:
    reason = "nested too deeply" if isinstance(error, RecursionError) else _reason(error)
    line = error.lineno if isinstance(error, json.JSONDecodeError) else line
    return InvalidInput(f"{path}, element {number}, line {line}: not JSON: {reason}", f"expected {FORMAT_HELP}")


def _reason(error: Exception) -> str:
    """A JSON error without its own line and column, which count from the record's start."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _normalised(text: str) -> str:
    """Text as duplicates are compared: one case, single spaces."""
    return " ".join(text.casefold().split())


def _last_sentence(text: str) -> str:
    """The last line's last sentence: where filler and marker lines sit."""
    line = text.strip().rsplit("\n", 1)[-1].strip()
    cut = max((line.rfind(mark, 0, len(line) - 1) for mark in (". ", "! ", "? ")), default=-1)
    return line[cut + 1 :].strip()
