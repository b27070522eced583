"""Reads configs/guidance.yaml: which feeling, in which domain, asks for which tone and which sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog.checker import Section, kind_of
from core.catalog.model import EMOTIONS, nearest
from core.catalog.names import is_domain_name
from core.catalog.reading import Document, Faults, read_document
from core.errors import InvalidInput
from core.workspace import Workspace

GUIDANCE_FILE = "guidance.yaml"
BANDS = ("clear", "strong")
LONGEST_INSTRUCTION = 400
# What a rule may set, with its bounds; the names are those of `core.chat.protocol.SamplingOptions`.
SAMPLING = {"temperature": (0.0, 2.0), "top_p": (0.05, 1.0), "min_p": (0.0, 0.5), "max_tokens": (16, 4096)}
_WHOLE = ("max_tokens",)
_CASE_KEYS = ("crisis", "mixed", "emotions", "intensity", "words", "earlier")
_RULE_KEYS = ("when", "say", "sampling")
_FIELDS = ("{first}", "{second}")


@dataclass(frozen=True)
class Case:
    """Conditions that must all hold; those left out hold always.

    `crisis`: the crisis gate closed. `mixed`: two feelings or more. `emotions`: the dominant one is among them, at
    least of the band `intensity`. `words`: the message says one of these; `earlier`: one of the person's last ones did.
    """

    crisis: bool = False
    mixed: bool = False
    emotions: tuple[str, ...] = ()
    intensity: str = BANDS[0]
    words: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def feels(self) -> bool:
        """Whether a feeling must have been read for this case."""
        return self.mixed or bool(self.emotions)


@dataclass(frozen=True)
class Rule:
    """What is asked of the model where one of the cases holds. `sampling` holds names of SAMPLING."""

    name: str
    cases: tuple[Case, ...]
    instruction: str
    sampling: Mapping[str, float]


@dataclass(frozen=True)
class GuidanceRules:
    """The whole file. `domains` holds rules by domain, `general` those for every other domain and for what a domain's
    own rules leave open; in both the first rule that holds is the one."""

    least: Mapping[str, float]  # by band, the least intensity
    least_confidence: float
    earlier_messages: int
    also: str  # added where a rule met one of two feelings; holds {first} and {second}
    domains: Mapping[str, tuple[Rule, ...]]
    general: tuple[Rule, ...]


def load_guidance(workspace: Workspace) -> GuidanceRules:
    """The rules of a workspace. Raises InvalidInput with the first fault and the number of further ones."""
    path = workspace.configs / GUIDANCE_FILE
    return read_guidance(path, workspace.relative(path))


def read_guidance(path: Path, name: str | None = None) -> GuidanceRules:
    """The rules of a file, called `name` in messages. Raises InvalidInput for one that has faults."""
    faults = Faults()
    rules = _read(read_document(path, name or str(path), faults), faults)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidInput(faults[0] + more, "`tara doctor` lists every fault; `tara init DIR` writes a fresh set")
    return rules


def check_guidance(workspace: Workspace) -> list[str]:
    """Everything that is wrong with the workspace's rules, each with file, line where known, and key."""
    faults = Faults()
    path = workspace.configs / GUIDANCE_FILE
    _read(read_document(path, workspace.relative(path), faults), faults)
    return list(faults)


def _read(document: Document, faults: Faults) -> GuidanceRules:
    top = Section(document, faults, document.data)
    top.only(("bands", "least_confidence", "earlier_messages", "also", "domains", "general"))
    bands = top.section("bands")
    bands.only(BANDS)
    least = {band: bands.number(band, 0, 1) for band in BANDS}
    if least["clear"] > least["strong"]:
        bands.fault("strong", "must not be below clear")
    domains = top.section("domains")
    for name in domains.values:
        if not is_domain_name(name):
            domains.fault(name, "cannot be a domain's name")
    return GuidanceRules(
        least=least,
        least_confidence=top.number("least_confidence", 0, 1),
        earlier_messages=top.integer("earlier_messages", 0, 20),
        also=_with_fields(top, "also"),
        domains={name: _rules(domains.section(name)) for name in domains.values},
        general=_rules(top.section("general")),
    )


def _rules(section: Section) -> tuple[Rule, ...]:
    if not section.values and not section.document.broken:
        section.fault(None, "holds no rule")
    return tuple(_rule(section.section(name), name) for name in section.values)


def _rule(entry: Section, name: str) -> Rule:
    entry.only(_RULE_KEYS)
    cases = _cases(entry)
    instruction = entry.text("say", longest=LONGEST_INSTRUCTION)
    if "{" in instruction:
        _with_fields(entry, "say")
        if not all(case.mixed for case in cases):
            entry.fault("say", "may name {first} and {second} only where every case is of a mixed feeling")
    return Rule(name, cases, instruction, _sampling(entry.section("sampling", optional=True)))


def _with_fields(section: Section, key: str) -> str:
    text: str = section.text(key, longest=LONGEST_INSTRUCTION)
    rest = text
    for name in _FIELDS:
        rest = rest.replace(name, "")
    if text and ("{" in rest or "}" in rest or not all(name in text for name in _FIELDS)):
        section.fault(key, "must hold {first} and {second}, and no other braces")
    return text


def _sampling(section: Section) -> dict[str, float]:
    section.only(SAMPLING)
    return {
        name: section.integer(name, *_ends(name)) if name in _WHOLE else section.number(name, *SAMPLING[name])
        for name in SAMPLING
        if name in section.values
    }


def _ends(name: str) -> tuple[int, int]:
    low, high = SAMPLING[name]
    return int(low), int(high)


def _cases(entry: Section) -> tuple[Case, ...]:
    value = entry.values.get("when")
    if not isinstance(value, list) or not value:
        shown = "empty" if value == [] else kind_of(value)
        entry.fault("when", f"must be a list of at least one case, this is {shown}")
        return ()
    return tuple(_case(entry, item) for item in value)


def _case(entry: Section, value: Any) -> Case:
    case = Section(entry.document, entry.faults, value, (*entry.path, "when"))
    case.only(_CASE_KEYS)
    if isinstance(value, dict) and not value:
        case.fault(None, "has an empty case, which would hold always")
    for key in ("crisis", "mixed"):
        if key in case.values and case.values[key] is not True:
            case.fault(key, "can only be true")
    emotions = case.texts("emotions") if "emotions" in case.values else ()
    for emotion in emotions:
        if emotion and emotion not in EMOTIONS:
            case.fault("emotions", f"{emotion!r} is none of the eight{nearest(emotion, EMOTIONS)}")
    if "intensity" in case.values and not emotions and "mixed" not in case.values:
        case.fault("intensity", "goes with emotions or mixed")
    return Case(
        crisis=case.values.get("crisis") is True,
        mixed=case.values.get("mixed") is True,
        emotions=emotions,
        intensity=case.choice("intensity", BANDS, BANDS[0]),
        words=case.texts("words") if "words" in case.values else (),
        earlier=case.texts("earlier") if "earlier" in case.values else (),
    )
