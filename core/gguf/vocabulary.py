"""The vocabulary of a loaded model file as the engine reads it.

Imports llama_cpp: for worker and engine processes only.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from core.gguf.llama import llama_cpp


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of a file's special tokens, None for one it does not have, and whether text is begun and ended with
    them where a program asks for that."""

    bos: int | None
    eos: int | None
    eot: int | None
    add_bos: bool
    add_eos: bool


class Vocabulary:
    """The vocabulary `handle`, which its model owns."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.size = int(llama_cpp.llama_vocab_n_tokens(handle))

    def text(self, token: int | None) -> str:
        """A token as the file spells it; '' for none."""
        if token is None or not 0 <= token < self.size:
            return ""
        return (llama_cpp.llama_vocab_get_text(self._handle, token) or b"").decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether the engine stops at a token."""
        return bool(llama_cpp.llama_vocab_is_eog(self._handle, token))

    def is_control(self, token: int) -> bool:
        """Whether a token is none of text: it is read from a template, and written by no word."""
        return bool(llama_cpp.llama_vocab_is_control(self._handle, token))

    @cached_property
    def special(self) -> SpecialTokens:
        """The file's special tokens."""

        def known(token: int) -> int | None:
            return int(token) if token >= 0 else None

        return SpecialTokens(
            known(llama_cpp.llama_vocab_bos(self._handle)),
            known(llama_cpp.llama_vocab_eos(self._handle)),
            known(llama_cpp.llama_vocab_eot(self._handle)),
            bool(llama_cpp.llama_vocab_get_add_bos(self._handle)),
            bool(llama_cpp.llama_vocab_get_add_eos(self._handle)),
        )

    @cached_property
    def control_texts(self) -> frozenset[str]:
        """How the control tokens are written: what in a person's text must not be read as one."""
        control = (token for token in range(self.size) if self.is_control(token))
        return frozenset(text for token in control if (text := self.text(token)))
