"""What an answer took and what the caches knew, in words: the same for the command and the console."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.chat.caches import Figures

if TYPE_CHECKING:
    from core.chat.client import Done


def done_line(done: "Done") -> str:
    """What an answer took, in a line."""
    if done.cached:
        return f"{done.tokens} tokens, from the cache"
    parts = [f"{done.tokens} tokens"]
    if done.tokens_per_s is not None:
        parts.append(f"{done.tokens_per_s:.0f} tokens/s")
    if done.first_token_s is not None:
        parts.append(f"first after {done.first_token_s:.2f} s" + (f" ({done.reused} reused)" if done.reused else ""))
    if done.switch_s is not None:
        parts.append(f"adapter switched in {1000 * done.switch_s:.0f} ms")
    if done.load_s is not None:
        parts.append(f"engine started in {done.load_s:.1f} s")
    if done.forgotten:
        parts.append(f"{done.forgotten} old messages left out")
    if done.restarts:
        parts.append("engine restarted")
    if done.stopped_by != "eos":
        parts.append(f"stopped by {done.stopped_by}")
    return ", ".join(parts)


def stats_line(figures: Mapping[str, Figures]) -> str:
    """How often each cache knew what it was asked."""
    return "caches: " + ", ".join(f"{name} {one.hits} of {one.hits + one.misses}" for name, one in figures.items())
