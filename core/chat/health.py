"""Who could not answer lately, and why: bases that did not start or fell silent, domains that failed on theirs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

COOLDOWN_S = 300.0


@dataclass(frozen=True)
class _Failure:
    at: float
    why: str


class Health:
    """Failures of bases and domains until they answer again. For `cooldown_s` after one nothing is routed to them; then
    they are tried again. `now` is a clock in seconds."""

    def __init__(self, cooldown_s: float = COOLDOWN_S, now: Callable[[], float] = time.monotonic) -> None:
        self._cooldown_s = cooldown_s
        self._now = now
        self._bases: dict[str, _Failure] = {}
        self._domains: dict[str, _Failure] = {}

    def base_failed(self, base: str, why: str) -> None:
        """A base could not be started, or did not answer alone: all its domains are concerned."""
        self._bases[base] = _Failure(self._now(), why)

    def failed(self, base: str | None, domain: str | None, why: str) -> None:
        """A question was not answered. That is the domain's own failure, unless there was none or its base is in doubt
        already; `base` is None where it did not come to that."""
        if base is not None and (domain is None or base in self._bases):
            self.base_failed(base, why)
        elif domain is not None:
            self._domains[domain] = _Failure(self._now(), why)

    def answered(self, base: str, domain: str | None) -> None:
        """A base answered, with this domain's adapter on it."""
        self._bases.pop(base, None)
        if domain is not None:
            self._domains.pop(domain, None)

    @property
    def unfit(self) -> frozenset[str]:
        """The bases that failed and did not answer since, however long ago that was."""
        return frozenset(self._bases.copy())

    def trouble(self, domain: str, base: str) -> str | None:
        """Why a domain on this base is not to be asked now; None where nothing failed, or long enough ago."""
        for failure in (self._domains.get(domain), self._bases.get(base)):
            if failure is not None and self._now() - failure.at < self._cooldown_s:
                return f"{failure.why}; it is left out for {self._cooldown_s:g} s"
        return None
