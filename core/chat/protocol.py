"""What the client and its engine process say to each other: one JSON object a line, each the dataclass it names."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from core.errors import TaraError


class EngineError(TaraError):
    """The engine could not answer; the message says which file or process, the hint what to do."""


class EngineCrashed(EngineError):
    """The engine process ended in the middle of an answer. The next question starts a new one."""


class EngineTimeout(EngineError):
    """No token came for longer than the limit."""


class LowMemory(EngineError):
    """The base does not fit into what is free, or into the budget."""


class PromptRefused(EngineError):
    """The conversation itself cannot be answered by any domain: it does not fit the context, or there is none."""


class EngineClosed(EngineError):
    """The engine was closed by its owner."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen: greedily at temperature 0. `max_tokens` bounds the answer."""

    max_tokens: int = 512
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0

    @property
    def repeatable(self) -> bool:
        """Whether the same prompt has the same answer: greedy, or with a seed of one's own (-1 draws one)."""
        return self.temperature <= 0 or self.seed & 0xFFFFFFFF != 0xFFFFFFFF


# -- to the engine ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """First message: the base to load, once."""

    gguf: str
    n_ctx: int
    threads: int


@dataclass(frozen=True)
class Ask:
    """Answer a conversation. `adapter` None is the base alone; `base_sha256` is the base the adapter must name.

    `begun` are the token ids of this answer that an engine gave before it died; the answer goes on behind them.
    `context` is how many tokens of the context may be used, 0 for all.
    """

    id: int
    messages: list[dict[str, str]]
    adapter: str | None = None
    base_sha256: str | None = None
    options: SamplingOptions = field(default_factory=SamplingOptions)
    begun: list[int] = field(default_factory=list)
    context: int = 0


@dataclass(frozen=True)
class Judge:
    """Say how probable the base without an adapter finds `answer` after `messages`."""

    id: int
    messages: list[dict[str, str]]
    answer: str


@dataclass(frozen=True)
class Cancel:
    """Stop the answer with this id, also if it has not begun."""

    id: int


# -- from the engine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The base is loaded."""

    load_s: float
    context_length: int


@dataclass(frozen=True)
class Piece:
    """A piece of the answer with this id; `ids` are the tokens since the piece before."""

    id: int
    text: str
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """The answer with this id is over; `stopped_by` is eos, stop, length or cancelled. `forgotten` counts the oldest
    messages that were left out because the context could not hold them. `switch_s` is what putting on another adapter
    took, None where the right one was on; `reused_tokens` of the prompt were still in the context; `ids` are the
    answer's tokens."""

    id: int
    text: str
    tokens: int
    prompt_tokens: int
    tokens_per_s: float | None
    first_token_s: float | None
    stopped_by: str
    forgotten: int = 0
    switch_s: float | None = None
    reused_tokens: int = 0
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """Mean log-probability (nats) of the tokens of an answer: after its question, and after no question."""

    id: int
    asked: float
    unasked: float
    tokens: int


@dataclass(frozen=True)
class Failed:
    """The engine could not do it; `id` None: it could not load the base. `of_prompt`: whoever answers could not."""

    id: int | None
    message: str
    hint: str | None = None
    of_prompt: bool = False


Request = Load | Ask | Judge | Cancel
Event = Ready | Piece | Finished | Judged | Failed
_REQUESTS: dict[str, type] = {kind.__name__: kind for kind in (Load, Ask, Judge, Cancel)}
_EVENTS: dict[str, type] = {kind.__name__: kind for kind in (Ready, Piece, Finished, Judged, Failed)}
_T = TypeVar("_T")


def encode(message: Request | Event) -> bytes:
    """One message as one line, newline included."""
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode("ascii") + b"\n"


def decode_request(line: bytes) -> Request:
    """A line from the client. Raises EngineError for anything else."""
    request: Request = _decode(line, _REQUESTS)
    return request


def decode_event(line: bytes) -> Event:
    """A line from the engine. Raises EngineError for anything else."""
    event: Event = _decode(line, _EVENTS)
    return event


def _decode(line: bytes, kinds: dict[str, type]) -> Any:
    try:
        data = json.loads(line)
        kind = kinds[data.pop("type")]
        if kind is Ask:
            data["options"] = _make(SamplingOptions, data["options"])
        return _make(kind, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"a line of the engine's protocol cannot be read: {line[:80]!r} ({error})") from error


def _make(kind: type[_T], data: dict[str, Any]) -> _T:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(data) - known:
        raise ValueError(f"unknown field {sorted(unknown)[0]}")
    return kind(**data)
