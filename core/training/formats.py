"""The four shapes a training example may have, each turned into the same list of messages.

- chat: `{"messages": [{"role": "user" | "assistant" | "system", "content": "…"}, …]}`
- alpaca: `{"instruction": "…", "input": "…", "output": "…"}`, `input` and `system` optional
- sharegpt: `{"conversations": [{"from": "human" | "gpt" | "system", "value": "…"}, …]}`
- conversation: `{"conversation_id": …, "domain": …, "turns": [{"role": …, "content": …}, …], "metadata": …}`
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
FORMAT_HELP = (
    'one JSON object a line, {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}; '
    "alpaca, sharegpt and conversation lists are read too"
)


class RecordFault(Exception):
    """What is wrong with one record; the reader adds the file and the line."""


@dataclass(frozen=True)
class Conversation:
    """One record's messages, user and assistant in turn, and the system message it came with ('' for none)."""

    messages: tuple[dict[str, str], ...]
    system: str


def parse_record(record: object) -> Conversation:
    """The conversation of one JSON record, in whichever of the four shapes it has.

    Raises RecordFault saying what is wrong with it.
    """
    if not isinstance(record, dict):
        raise RecordFault(f"an example must be a JSON object, this is {_kind(record)}")
    for key, parse in _PARSERS.items():
        if key in record:
            return _checked(parse(record))
    keys = ", ".join(repr(str(key)[:30]) for key in list(record)[:6]) or "nothing"
    raise RecordFault(f"none of 'messages', 'conversations', 'turns' or 'instruction' is in it (it has {keys})")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise RecordFault(f"{what} must be text, this is {_kind(value)}")
    if not value.strip():
        raise RecordFault(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RecordFault(f"{what} holds half of a surrogate pair, which is no character") from None
    return value


def _messages(record: dict[str, Any], key: str, role_key: str, text_key: str, roles: dict[str, str]) -> list[Any]:
    """The (role, text) pairs of a list of messages with these key names."""
    items = record[key]
    if not isinstance(items, list) or not items:
        raise RecordFault(f"{key!r} must be a list of at least one question and its answer")
    pairs = []
    for number, item in enumerate(items, 1):
        place = f"message {number}"
        if not isinstance(item, dict):
            raise RecordFault(f"{place} must be an object, this is {_kind(item)}")
        if role_key not in item:
            raise RecordFault(f"{place} has no {role_key!r}")
        role = item[role_key]
        if not isinstance(role, str) or role not in roles:
            raise RecordFault(f"{place} has the unknown {role_key} {str(role)[:30]!r} (known: {', '.join(roles)})")
        if text_key not in item:
            raise RecordFault(f"{place} has no {text_key!r}")
        pairs.append((roles[role], _text(item[text_key], f"the {text_key} of {place}")))
    return pairs


def _chat(record: dict[str, Any]) -> list[Any]:
    return _messages(record, "messages", "role", "content", {role: role for role in ROLES})


def _sharegpt(record: dict[str, Any]) -> list[Any]:
    return _messages(record, "conversations", "from", "value", _SHAREGPT_ROLES)


def _conversation(record: dict[str, Any]) -> list[Any]:
    return _messages(record, "turns", "role", "content", {role: role for role in ROLES})


def _alpaca(record: dict[str, Any]) -> list[Any]:
    if record.get("history"):
        raise RecordFault("'history' is not read from alpaca records; give the whole conversation as 'messages'")
    if "output" not in record:
        raise RecordFault("'instruction' is there but no 'output'")
    question = _text(record["instruction"], "'instruction'")
    if record.get("input") not in (None, ""):
        question = f"{question}\n\n{_text(record['input'], repr('input'))}"
    pairs = [("user", question), ("assistant", _text(record["output"], "'output'"))]
    if record.get("system") not in (None, ""):
        pairs.insert(0, ("system", _text(record["system"], "'system'")))
    return pairs


_PARSERS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "messages": _chat,
    "conversations": _sharegpt,
    "turns": _conversation,
    "instruction": _alpaca,
}


def _checked(pairs: list[tuple[str, str]]) -> Conversation:
    """User and assistant must take turns from the first to the last: many chat templates render nothing else."""
    system = ""
    if pairs[0][0] == "system":
        system, pairs = pairs[0][1], pairs[1:]
        if not pairs:
            raise RecordFault("it holds a system message and nothing else")
    for number, (role, _) in enumerate(pairs):
        expected = "assistant" if number % 2 else "user"
        if role == expected:
            continue
        if role == "system":
            raise RecordFault("a system message may only come first")
        if number == 0:
            raise RecordFault("it starts with the assistant; the first message must be the user's")
        raise RecordFault(f"two {role} messages follow each other; user and assistant must take turns")
    if pairs[-1][0] == "user":
        raise RecordFault("it ends on the user's message; the last must be the assistant's, for that is what is learnt")
    return Conversation(tuple({"role": role, "content": text} for role, text in pairs), system)
