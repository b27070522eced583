"""The canned prompts of `tara smoke` and their rules, read from configs/smoke.yaml."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.catalog.checker import Section, kind_of
from core.catalog.model import Domain, nearest
from core.catalog.reading import Document, Faults, read_document
from core.catalog.shipped import template
from core.errors import InvalidInput
from core.files import hash_json
from core.workspace import Workspace

SMOKE_FILE = "smoke.yaml"
LONGEST_PROMPT = 2000
_STANDS_FOR = ("{example_question}", "{title}")


@dataclass(frozen=True)
class SmokePrompt:
    """One question and what its answer must be like. `routed`: through the router, which must choose the domain, else
    asked of it directly; `contains`: at least one of these words must be in it, `excludes`: none of these may."""

    name: str
    prompt: str
    max_tokens: int
    first_token_s: float
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    routed: bool = False
    crisis: bool = False


@dataclass(frozen=True)
class SmokeSets:
    """Prompts for every domain, and those of some domains besides. `sha256` is of all of them."""

    general: tuple[SmokePrompt, ...]
    domains: Mapping[str, tuple[SmokePrompt, ...]]
    sha256: str

    def of(self, domain: Domain) -> tuple[SmokePrompt, ...]:
        """What a domain is asked, with its own words put in; a question that is there already is not asked twice."""
        found: dict[str, SmokePrompt] = {}
        for one in (*self.domains.get(domain.name, ()), *self.general):
            text = one.prompt.replace("{example_question}", domain.example_question).replace("{title}", domain.title)
            found.setdefault(text, SmokePrompt(**{**asdict(one), "prompt": text}))
        return tuple(found.values())


def load_smoke(workspace: Workspace, domains: Iterable[str]) -> SmokeSets:
    """The workspace's sets, or the shipped ones where it has no such file. Raises InvalidInput with the first fault and
    the number of further ones."""
    faults = Faults()
    found = read_smoke(workspace, domains, faults)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidInput(faults[0] + more, "`tara doctor` lists every fault in configs/")
    return found


def read_smoke(workspace: Workspace, domains: Iterable[str], faults: Faults) -> SmokeSets:
    """As `load_smoke`, noting the faults. Sets of domains that are not known are a fault."""
    path = workspace.configs / SMOKE_FILE
    if not path.exists():
        path = template() / SMOKE_FILE  # a workspace that is older than the file
    document = read_document(path, workspace.relative(path), faults)
    top = Section(document, faults, document.data)
    top.only(("rules", "general", "domains"))
    rules = top.section("rules", optional=True)
    rules.only(("max_tokens", "first_token_s"))
    most, first = rules.integer("max_tokens", 1, 4096, 256), rules.number("first_token_s", 0.01, 3600, 30)
    general = _prompts(document, faults, top.section("general"), most, first)
    by_domain = top.section("domains", optional=True)
    known = tuple(domains)
    sets: dict[str, tuple[SmokePrompt, ...]] = {}
    for name in by_domain.values:
        if known and name not in known:  # where the domains cannot be read, that is said elsewhere
            by_domain.fault(name, f"there is no such domain{nearest(name, known)}")
        sets[name] = _prompts(document, faults, by_domain.section(name), most, first)
    if not document.broken and not general:
        top.fault("general", "holds no prompt")
    return SmokeSets(general, sets, hash_json(document.data))


def _prompts(document: Document, faults: Faults, section: Section, most: int, first: float) -> tuple[SmokePrompt, ...]:
    found = []
    for name, value in section.values.items():
        entry = Section(document, faults, value, (*section.path, name))
        entry.only(SmokePrompt.__dataclass_fields__.keys() - {"name"})
        prompt = str(entry.text("prompt", longest=LONGEST_PROMPT, lines=True))
        left = prompt
        for word in _STANDS_FOR:
            left = left.replace(word, "")
        if "{" in left or "}" in left:
            entry.fault("prompt", f"braces stand only in {' and '.join(_STANDS_FOR)}")
        found.append(
            SmokePrompt(
                name,
                prompt,
                entry.integer("max_tokens", 1, 4096, most),
                entry.number("first_token_s", 0.01, 3600, first),
                entry.texts("contains") if "contains" in entry.values else (),
                entry.texts("excludes") if "excludes" in entry.values else (),
                _flag(entry, "routed"),
                _flag(entry, "crisis"),
            )
        )
    return tuple(found)


def _flag(entry: Section, key: str) -> bool:
    value: Any = entry.values.get(key, False)
    if not isinstance(value, bool):
        entry.fault(key, f"must be true or false, this is {kind_of(value)}")
    return value is True
