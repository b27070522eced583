"""A decision in plain lines, for commands and the console."""

from core.routing.data import TERMS
from core.routing.decision import GATE_BY_LETTERS
from core.routing.router import Decision
from core.routing.urgency import NAMES

MOST_CANDIDATES = 5


def headline(decision: Decision) -> str:
    """The decision in one line."""
    if decision.crisis is not None:
        return f"crisis ({decision.crisis.kind}) → {decision.domain or 'base model'}"
    if decision.consensus is not None:
        both = " and ".join(decision.consensus)
        return f"unsure → {both} may both be asked ({decision.confidence:.0%}: {decision.reason})"
    if decision.domain is None:
        unsure = "unsure → " if decision.unsure else ""
        return f"{unsure}base model ({decision.confidence:.0%}: {decision.reason})"
    return f"{decision.domain} ({decision.confidence:.0%}: {decision.reason})"


def explain(decision: Decision) -> list[str]:
    """The decision part by part: what was chosen and why, what was read in the message, and each candidate's terms."""
    lines = [headline(decision)]
    if decision.resources:
        lines.append(decision.resources)
    feeling = decision.emotion
    if feeling.neutral:
        felt = "no emotion found"
    else:
        named = feeling.mixed or (feeling.dominant,)
        felt = " + ".join(f"{name} {feeling.values[str(name)]:.2f}" for name in named)
        felt += f", intensity {feeling.intensity:.2f} (by {feeling.method}, confidence {feeling.confidence:.2f})"
    lines.append(f"urgency {NAMES[decision.urgency]}, complexity {decision.complexity:.2f}, {felt}")
    if decision.crisis is None:
        lines.append(_compared(decision))
    if weak := weaker(decision):
        lines.append(weak)
    if decision.candidates:
        weights = " + ".join(f"{decision.weights[name]:g} {name}" for name in TERMS)
        lines.append(f"total = {weights}")
    width = max((len(candidate.domain) for candidate in decision.candidates), default=0)
    for candidate in decision.candidates[:MOST_CANDIDATES]:
        numbers = "  ".join(f"{name} {getattr(candidate, name):.3f}" for name in TERMS)
        notes = list(candidate.notes) + ([] if candidate.near_best else ["set aside: content too far from the best"])
        said = f"  [{'; '.join(notes)}]" if notes else ""
        lines.append(f"{candidate.domain:<{width}}  {candidate.total:.3f} = {numbers}{said}")
    for name, why in sorted(decision.unavailable.items()):
        lines.append(f"{name} cannot answer now: {why}")
    hidden = len(decision.candidates) - MOST_CANDIDATES
    if hidden > 0:
        lines.append(f"and {hidden} more")
    return lines


def weaker(decision: Decision) -> str:
    """What was read with less than the shipped encoder gives, in a sentence; empty where nothing was."""
    parts = []
    if decision.crisis is None and decision.crisis_method == GATE_BY_LETTERS:
        parts.append("crisis gate by expressions and letters alone, which find far less (docs/routing.md)")
    if decision.emotion.note:
        parts.append(f"emotions by the word list: {decision.emotion.note}")
    return "; ".join(parts)


def _compared(decision: Decision) -> str:
    """How it was told what the message is about, and whether it goes on with the one before."""
    said = f"compared by {decision.method}"
    if decision.nearest is not None:
        said += f", nearest text {decision.nearest:.2f}, one of the domains is meant {decision.inside:.0%}"
    if decision.tie:
        said += f", the message before adds {decision.tie:.2f} to its domain"
    if decision.topic_changed:
        said += ", the topic changed"
    return f"{said} ({decision.note})" if decision.note else said
