"""How an answer should sound: a sentence added to the system prompt and how tokens are chosen, by rules of a file.

The answer's own text is never edited. The rules stand in `configs/guidance.yaml`; `core.catalog.guidance` reads them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from core.catalog.guidance import GUIDANCE_FILE, Case, GuidanceRules, Rule, load_guidance, read_guidance
from core.catalog.shipped import template
from core.chat.protocol import SamplingOptions
from core.routing.emotion import Emotion
from core.routing.lexicon import NEGATORS
from core.routing.words import Word, normalise, split_words, stem, stem_phrase
from core.workspace import Workspace

GENERAL = "general"
_NEGATION_WINDOW = 2  # words before a configured word, within its clause, in which "not" takes it away


@dataclass(frozen=True)
class Guidance:
    """What a rule asks for. `sampling` holds names of SamplingOptions with the values to use."""

    name: str
    domain: str  # whose rule it is, or GENERAL
    instruction: str
    sampling: Mapping[str, float]
    reason: str  # what met the rule: "fear 0.62", "speaks of “blank page”"

    def line(self) -> str:
        """Which rule it is, and what met it."""
        return f"{self.name} of {self.domain}, for {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """What steered an answer, for scripts."""
        return {
            "rule": self.name,
            "of": self.domain,
            "because": self.reason,
            "instruction": self.instruction,
            "sampling": dict(self.sampling),
        }

    def apply(self, options: SamplingOptions, kept: Collection[str] = ()) -> SamplingOptions:
        """`options` with the rule's changes, except those named in `kept`, which the person chose."""
        changes = {name: value for name, value in self.sampling.items() if name not in kept}
        if "max_tokens" in changes:  # a rule may shorten an answer, never lengthen it beyond what was allowed
            changes["max_tokens"] = min(int(changes["max_tokens"]), options.max_tokens)
        return replace(options, **changes)  # type: ignore[arg-type]


def guidance_for(
    domain: str | None,
    emotion: Emotion,
    message: str,
    history: Sequence[Mapping[str, str]] = (),
    *,
    crisis: bool = False,
    rules: GuidanceRules | None = None,
) -> Guidance | None:
    """What the first rule that holds asks for; None where none does, and the message is answered as usual.

    `domain` is who answers, None the base alone; `history` the conversation before the message, oldest first, as the
    engine is given it; `crisis` what the crisis gate said. `rules` default to the shipped ones.
    """
    chosen = rules or shipped_rules()
    reading = _Reading(chosen, emotion, message, history, crisis)
    own = chosen.domains.get(domain or "", ())
    for place, group in ((domain or GENERAL, own), (GENERAL, chosen.general)):
        for rule in group:
            for case in rule.cases:
                met = reading.meets(case)
                if met is not None:
                    return Guidance(rule.name, place, reading.instruction(rule, case), rule.sampling, met)
    return None


@cache
def shipped_rules() -> GuidanceRules:
    """The rules TARA ships. Raises EnvironmentLacks where its configs are not installed."""
    return read_guidance(template() / GUIDANCE_FILE)


def rules_of(workspace: Workspace | None) -> GuidanceRules:
    """A workspace's own rules, the shipped ones where it has none. Raises InvalidInput for a faulty file."""
    if workspace is None or not (workspace.configs / GUIDANCE_FILE).exists():
        return shipped_rules()
    return load_guidance(workspace)


class _Reading:
    """One message beside the conditions of cases."""

    def __init__(
        self,
        rules: GuidanceRules,
        emotion: Emotion,
        message: str,
        history: Iterable[Mapping[str, str]],
        crisis: bool,
    ) -> None:
        self._rules = rules
        trusted = emotion.confidence >= rules.least_confidence and emotion.intensity >= rules.least["clear"]
        self._feeling = emotion.dominant if trusted else None
        self._mixed = emotion.mixed if trusted else ()
        self._intensity = emotion.intensity
        self._crisis = crisis
        self._words = split_words(normalise(message))
        self._history = history
        self._earlier: list[list[Word]] | None = None

    def meets(self, case: Case) -> str | None:
        """What met the case, in words; None where one of its conditions does not hold."""
        if case.crisis != self._crisis:  # in a crisis only what is written for one may speak
            return None
        met = ["crisis wording"] if case.crisis else []
        if case.feels:
            if self._feeling is None or self._intensity < self._rules.least[case.intensity]:
                return None
            if (case.mixed and not self._mixed) or (case.emotions and self._feeling not in case.emotions):
                return None
            met.append(f"{' and '.join(self._mixed[:2]) if case.mixed else self._feeling} {self._intensity:.2f}")
        if case.words:
            said = _said(self._words, case.words)
            if said is None:
                return None
            met.append(f"speaks of “{said}”")
        if case.earlier:
            said = next((found for words in self._before() if (found := _said(words, case.earlier))), None)
            if said is None:
                return None
            met.append(f"spoke of “{said}” before")
        return ", ".join(met)

    def instruction(self, rule: Rule, case: Case) -> str:
        """The rule's sentence, with what a mixed feeling adds to it."""
        if not self._mixed or not case.feels:
            return rule.instruction
        first, second = self._mixed[:2]
        if case.mixed:
            return rule.instruction.replace("{first}", first).replace("{second}", second)
        return f"{rule.instruction} {self._rules.also.replace('{first}', first).replace('{second}', second)}"

    def _before(self) -> list[list[Word]]:
        """The words of the person's last messages before this one, newest first."""
        if self._earlier is None:
            said = [entry["content"] for entry in self._history if entry.get("role") == "user"]
            newest = said[::-1][: self._rules.earlier_messages]
            self._earlier = [split_words(normalise(text)) for text in newest]
        return self._earlier


@cache
def _stems_of(phrase: str) -> tuple[str, ...]:
    return stem_phrase(phrase)


def _said(words: list[Word], phrases: Iterable[str]) -> str | None:
    """The first of the phrases that the words hold, whole and not negated."""
    stems = [stem(word.text) for word in words]
    for phrase in phrases:
        wanted = _stems_of(phrase)
        for at in range(len(stems) - len(wanted) + 1):
            if tuple(stems[at : at + len(wanted)]) != wanted:
                continue
            before = words[max(0, at - _NEGATION_WINDOW) : at]
            if not any(word.text in NEGATORS and word.clause == words[at].clause for word in before):
                return phrase
    return None
