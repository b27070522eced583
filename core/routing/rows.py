"""The texts that stand for each domain when messages are compared by an encoder: what people say to it, what it is
about, its keywords in small groups; and texts of no domain, by which "none of these" is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_SAID = 160  # prompts and examples kept of one domain
MOST_OUTSIDE = 12  # examples kept of each domain that is not in the set
GROUP = 4  # keywords in one text: enough to make a subject, few enough that each counts
GENERAL = ""  # the group of texts that belong to no domain at all


@dataclass(frozen=True)
class DomainRows:
    """The texts of one domain."""

    said: tuple[str, ...]
    about: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """All texts of a set of domains. `outside` holds pairs of a group and a text: a group is another domain's name, or
    GENERAL."""

    domains: Mapping[str, DomainRows]
    outside: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        """The domains, in the order of their rows."""
        return sorted(self.domains)

    def texts(self) -> list[str]:
        """Every text, in the order of the vectors: by domain what was said, what it is about, its topics; then what is
        outside."""
        own = [text for name in self.names for text in self._texts_of(name)]
        return own + [text for _, text in self.outside]

    def _texts_of(self, name: str) -> tuple[str, ...]:
        rows = self.domains[name]
        return (*rows.said, rows.about, *rows.topics)


def rows_of(title: str, description: str, keywords: Sequence[str], said: Iterable[str]) -> DomainRows:
    """The texts of a domain from its catalogue entry and what people say to it, each once."""
    groups = [keywords[at : at + GROUP] for at in range(0, len(keywords), GROUP)]
    return DomainRows(
        tuple(thinned(distinct(said), MOST_SAID)),
        f"{title}. {description}",
        tuple(f"{title}: {', '.join(group)}" for group in groups),
    )


def outside_of(examples: Mapping[str, Sequence[str]], general: Sequence[str], inside: Iterable[str]) -> list[list[str]]:
    """Texts of no domain of the set: general ones, and a few of each domain in `examples` that is not `inside`."""
    own = set(inside)
    pairs = [[GENERAL, text] for text in distinct(general)]
    for name in sorted(examples.keys() - own):
        pairs += [[name, text] for text in thinned(distinct(examples[name]), MOST_OUTSIDE)]
    return pairs


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts without white space around them, the first of equal ones."""
    return list(dict.fromkeys(text for each in texts if (text := " ".join(each.split()))))


def thinned(texts: Sequence[str], most: int) -> Sequence[str]:
    """At most `most` of the texts, evenly from beginning to end."""
    if len(texts) <= most:
        return texts
    return [texts[at * len(texts) // most] for at in range(most)]


def rows_from(data: Mapping[str, Any]) -> Rows:
    """The rows in routing data that `data.validate` has passed."""
    domains = {
        name: DomainRows(tuple(entry["said"]), entry["about"], tuple(entry["topics"]))
        for name, entry in data["domains"].items()
    }
    return Rows(domains, tuple((group, text) for group, text in data["outside"]))
