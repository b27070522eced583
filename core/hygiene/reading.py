"""Reading small foreign files: bounded, and with a reason in words when it fails."""

import json
from pathlib import Path
from typing import Any

JSON_LIMIT = 512 << 20  # the largest real tokenizer.json files are some tens of megabytes


class Malformed(ValueError):
    """A file is not what its name says; the message is for a person."""


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises Malformed with the reason when it cannot be read as JSON."""
    try:
        size = path.stat().st_size
        if size > JSON_LIMIT:
            raise Malformed(f"is {size} bytes long, too long for a JSON file")
        return json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise Malformed(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise Malformed("is nested too deeply to be read") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # a number of thousands of digits
        raise Malformed("holds a number that is too long") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises Malformed when it is unreadable or holds something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise Malformed(f"holds a JSON {type(value).__name__}, not an object")
    return value


def object_or_empty(path: Path) -> dict[str, Any]:
    """A JSON file's object, or an empty one when it is absent or malformed (checks report that on their own)."""
    if not path.is_file():
        return {}
    try:
        return read_object(path)
    except Malformed:
        return {}
