"""A message as its words alone tell of it, each thing worked out once; the encoder reads it meanwhile."""

from functools import cached_property
from typing import Protocol

from core.routing.complexity import complexity_of
from core.routing.content import ContentModel, Evidence
from core.routing.crisis_wording import CrisisWording
from core.routing.urgency import urgency_of
from core.routing.words import Word, normalise, split_words


class Corrects(Protocol):
    """What puts the spelling of a text right; `typos.Speller` does."""

    def correct(self, text: str) -> str:
        """The text with misspelled words put right."""


class Written:
    """A message as it was written, and with the spelling put right where there is a `speller`."""

    def __init__(self, text: str, speller: Corrects | None = None, content: ContentModel | None = None) -> None:
        """`content` are the domains' words, where there are domains to tell apart."""
        self.plain = normalise(text)
        self._speller, self._content = speller, content

    @cached_property
    def words(self) -> list[Word]:
        """As they were written."""
        return split_words(self.plain)

    @cached_property
    def readable(self) -> str:
        """The text that is compared with the domains' texts: with the spelling put right."""
        return self._speller.correct(self.plain) if self._speller is not None else self.plain

    @property
    def corrected(self) -> bool:
        """Whether a word was misspelled."""
        return self.readable != self.plain

    @cached_property
    def readable_words(self) -> list[Word]:
        """The words of `readable`."""
        return split_words(self.readable) if self.corrected else self.words

    @cached_property
    def crisis(self) -> CrisisWording:
        """What the words say of a crisis. As they were written: a wrong correction misleads."""
        return CrisisWording(self.plain, self.words)

    @cached_property
    def urgency(self) -> int:
        """0 (none) to 3 (emergency)."""
        return urgency_of(self.plain)

    @cached_property
    def complexity(self) -> float:
        """In [0, 1]."""
        return complexity_of(self.plain, self.words)

    @cached_property
    def evidence(self) -> Evidence:
        """What the words say for each domain. Raises ValueError where no domains were named."""
        if self._content is None:
            raise ValueError("no domains to tell apart")
        return self._content.evidence(self.readable_words)

    def work_out(self) -> None:
        """All of it now, but what a certain wording makes needless."""
        _ = self.urgency, self.complexity
        if self.crisis.certain is not None:
            return
        _ = self.crisis.said, self.crisis.worded, self.crisis.excused, self.crisis.by_letters
        if self._content is not None:
            _ = self.evidence
