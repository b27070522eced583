"""What an engine's answer is made of as it comes."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Token:
    """A piece of the answer, as the model wrote it: not yet cleaned for a terminal."""

    text: str


@dataclass(frozen=True)
class Restarted:
    """The engine died in the middle of the answer and was started again; the answer goes on."""

    reason: str


@dataclass(frozen=True)
class Done:
    """The answer is over. `stopped_by`: eos, stop, length or cancelled. `tokens_per_s` is after the first token, None
    for a single one; `first_token_s` None where there was none. `forgotten` messages no longer fitted the context.

    `load_s` and `switch_s` are what starting the engine and putting on the adapter took, None where nothing was to be
    done; `waited_s` is all from the question to the first token, as the client saw it. `reused` tokens of the prompt
    were in the context from the question before. A `cached` answer was kept from before: its times are not those of
    now, so it has none. `restarts` counts engines that died on the way. `ids` are the answer's tokens.
    """

    text: str
    tokens: int
    tokens_per_s: float | None
    first_token_s: float | None
    stopped_by: str
    domain: str | None
    forgotten: int = 0
    load_s: float | None = None
    switch_s: float | None = None
    waited_s: float | None = None
    reused: int = 0
    cached: bool = False
    restarts: int = 0
    ids: tuple[int, ...] = ()

    def again(self, domain: str | None) -> "Done":
        """It as the answer to the same question later: times of now it has none."""
        return replace(self, cached=True, tokens_per_s=None, first_token_s=None, load_s=None, switch_s=None,
                       waited_s=None, reused=0, domain=domain)  # fmt: skip
