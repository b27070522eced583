"""Routing data: what the router needs, as one JSON file that ships with a release."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.catalog.model import Settings
from core.errors import InvalidInput
from core.routing import crisis
from core.routing.blend import blend_from
from core.routing.complexity import complexity_of
from core.routing.fit import fit_calibration, prompt_features, stem_keywords, weigh_terms
from core.routing.lexicon import EMOTIONS
from core.routing.rows import outside_of, rows_from, rows_of
from core.routing.urgency import urgency_of
from core.routing.vectors import TextEncoder, fault_of
from core.routing.words import normalise, split_words

VERSION = 2
FILE_NAME = "routing.json"
TERMS = ("content", "emotion", "speed", "quality")
MEASURED = ("tokens_per_s", "first_token_s", "load_s", "quality", "quality_examples")
DEFAULT_SETTINGS: dict[str, Any] = {
    "weights": {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1},
    "unsure_below": 0.45,  # least confidence in the chosen domain
    "consensus_band": 0.1,  # so far below that, the two best domains may both be asked
    "near_best": 0.6,  # a domain is weighed if its content is at least this share of the best one's
    "answer_tokens": 128,  # length of answer the speed term reckons with
}


class DomainLike(Protocol):
    """What routing needs of a catalogue's domain."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def keywords(self) -> Sequence[str]: ...
    @property
    def emotional_profile(self) -> Mapping[str, float]: ...
    @property
    def safety_tier(self) -> str: ...


def build_routing_data(
    domains: Iterable[DomainLike],
    prompts: Mapping[str, Sequence[str]],
    measurements: Mapping[str, Mapping[str, float | str]],
    settings: Mapping[str, Any] | None = None,
    *,
    examples: Mapping[str, Sequence[str]] | None = None,
    general: Sequence[str] = (),
    encoder: TextEncoder | None = None,
) -> dict[str, Any]:
    """Routing data for a set of domains, ready for `json.dump`; `Router.from_data` takes it.

    `prompts` holds each domain's training prompts (what people write, not the answers), `examples` messages by domain,
    also of domains that are not in the set: those tell what belongs elsewhere, as `general` does, messages of no domain
    at all. `measurements` holds, by domain, values by name: `tokens_per_s`, `first_token_s`, `load_s` and `quality`
    (held-out token accuracy, 0..1, of `quality_examples` examples) are used; one that is absent stays "not measured".
    `settings` may replace entries of DEFAULT_SETTINGS, and may hold "crisis", `{"region": name, "resources": {region:
    text}}`, the help lines shown in a crisis; others are ignored. Without `encoder` messages are routed by keywords, or
    the vectors are made where one is (`core.routing.prepare`). Raises EncoderError where the encoder fails.
    """
    chosen = sorted(domains, key=lambda domain: domain.name)
    if not chosen:
        raise InvalidInput("routing needs at least one domain", "add a domain to the phase first")
    # The title counts with the description: people name what they want.
    descriptions = {domain.name: f"{domain.title}. {domain.description}" for domain in chosen}
    keywords = {domain.name: list(domain.keywords) for domain in chosen}
    told = examples or {}
    said = {d.name: list(dict.fromkeys([*prompts.get(d.name, ()), *told.get(d.name, ())])) for d in chosen}
    rows = {d.name: rows_of(d.title, d.description, list(d.keywords), said[d.name]) for d in chosen}
    terms = weigh_terms({name: [prompt_features(text) for text in rows] for name, rows in said.items()}, descriptions)
    stems = stem_keywords(keywords)
    fit = fit_calibration(said, descriptions, keywords)
    given = dict(settings or {})
    data = {
        "version": VERSION,
        "settings": {name: given.get(name, value) for name, value in DEFAULT_SETTINGS.items()},
        "calibration": {
            "temperature": fit.calibration.temperature,
            "none_bias": fit.calibration.none_bias,
            "none_per_unknown": fit.calibration.none_per_unknown,
            "method": fit.method,
            "n": fit.n,
            "accuracy": fit.accuracy,
        },
        "resources": crisis_resources(given.get("crisis")),
        "domains": {
            domain.name: {
                "title": domain.title,
                "safety_tier": domain.safety_tier,
                "keywords": [" ".join(phrase) for phrase in stems[domain.name]],
                "terms": terms[domain.name],
                "prompts": len(said[domain.name]),
                "said": list(rows[domain.name].said),
                "about": rows[domain.name].about,
                "topics": list(rows[domain.name].topics),
                "habits": habits_of(said[domain.name]),
                "emotional_profile": {name: float(domain.emotional_profile.get(name, 0.0)) for name in EMOTIONS},
                "measured": {
                    name: float(value)
                    for name, value in measurements.get(domain.name, {}).items()
                    if name in MEASURED and isinstance(value, int | float)
                },
            }
            for domain in chosen
        },
        "outside": outside_of(told, general, (domain.name for domain in chosen)),
        "vectors": None,
        "blend": None,
    }
    if encoder is not None:
        from core.routing.prepare import with_vectors  # loads numpy, which reading the data does not need

        data = with_vectors(data, encoder)
    return validate(data, "routing data")


def habits_of(said: Sequence[str]) -> dict[str, float]:
    """What is usual for a domain: mean complexity and share of urgent messages, of what was said to it."""
    plain = [normalise(text) for text in said]
    complexity = math.fsum(complexity_of(text, split_words(text)) for text in plain) / max(1, len(plain))
    urgent = sum(urgency_of(text) >= 2 for text in plain) / max(1, len(plain))
    return {"complexity": round(complexity, 4), "urgent": round(urgent, 4)}


def crisis_resources(configured: Mapping[str, Any] | None) -> dict[str, str]:
    """The text shown in each kind of crisis: advice, then the help lines of the configured region."""
    lines = crisis.HELP_LINES
    if configured is not None:
        region, by_region = configured.get("region"), configured.get("resources") or {}
        if region not in by_region:
            raise InvalidInput(
                f"crisis.region {region!r} has no text under crisis.resources", "see configs/settings.yaml"
            )
        lines = str(by_region[region])
    return {kind: f"{advice} {lines}" for kind, advice in crisis.ADVICE.items()}


def own_resources(settings: Settings) -> dict[str, str] | None:
    """The texts of a workspace's region, where it has one of its own; else those hold that a release was built with."""
    own = settings.crisis_dict()
    return crisis_resources(own) if own != Settings().crisis_dict() else None


def load_routing_data(path: Path) -> dict[str, Any]:
    """Read and check a `routing.json`. Raises InvalidInput naming the file and the key."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "package the phase again") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}", "package the phase again") from error
    return validate(data, str(path))


def validate(data: Any, source: str) -> dict[str, Any]:
    """`data` itself when it can be routed with; else InvalidInput naming `source` and the key."""
    check = _Check(source)
    check.mapping(data, "the file")
    if data.get("version") == 1:
        data = _from_first(data)
    if data.get("version") != VERSION:
        check.fail("version", f"is {data.get('version')!r}, this program reads {VERSION} and 1")
    settings = check.mapping(data.get("settings"), "settings")
    weights = check.mapping(settings.get("weights"), "settings.weights")
    for name in TERMS:
        check.number(weights.get(name), f"settings.weights.{name}", 0, 1)
    if not math.isclose(math.fsum(weights[name] for name in TERMS), 1, abs_tol=1e-6):
        check.fail("settings.weights", "do not sum to 1")
    for name in ("unsure_below", "near_best", "consensus_band"):
        check.number(settings.get(name), f"settings.{name}", 0, 1)
    check.number(settings.get("answer_tokens"), "settings.answer_tokens", 1, 1e6)
    fitted = check.mapping(data.get("calibration"), "calibration")
    check.number(fitted.get("temperature"), "calibration.temperature", 0.01, 1e3)
    check.number(fitted.get("none_bias"), "calibration.none_bias", -100, 100)
    check.number(fitted.get("none_per_unknown"), "calibration.none_per_unknown", 0, 100)
    resources = check.mapping(data.get("resources"), "resources")
    for kind in crisis.KINDS:
        check.text(resources.get(kind), f"resources.{kind}")
    domains = check.mapping(data.get("domains"), "domains")
    if not domains:
        check.fail("domains", "is empty")
    for name, entry in domains.items():
        _check_domain(check, f"domains.{name}", entry)
    outside = data.get("outside")
    if not isinstance(outside, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in outside
    ):
        check.fail("outside", "is not a list of pairs of group and text")
    if data.get("vectors") is not None:
        if fault := fault_of(data["vectors"], len(rows_from(data).texts())):
            check.fail("vectors", fault)
        blend_from(data.get("blend"), source)
    return data  # type: ignore[no-any-return]


def _from_first(data: dict[str, Any]) -> dict[str, Any]:
    """Data of the first version, which knew no texts: routed by keywords, whatever encoder there is."""
    domains = data.get("domains")
    added = {"said": [], "about": "", "topics": [], "habits": {"complexity": 0.0, "urgent": 0.0}}
    if isinstance(domains, dict):
        domains = {name: {**added, **entry} if isinstance(entry, dict) else entry for name, entry in domains.items()}
    settings = data.get("settings")
    if isinstance(settings, dict):
        settings = {"consensus_band": DEFAULT_SETTINGS["consensus_band"], **settings}
    return {
        **data, "version": VERSION, "settings": settings, "domains": domains, "outside": [], "vectors": None,
        "blend": None,
    }  # fmt: skip


def _check_domain(check: "_Check", key: str, entry: Any) -> None:
    check.mapping(entry, key)
    check.text(entry.get("title"), f"{key}.title")
    check.text(entry.get("safety_tier"), f"{key}.safety_tier")
    if not isinstance(entry.get("keywords"), list) or not all(isinstance(word, str) for word in entry["keywords"]):
        check.fail(f"{key}.keywords", "is not a list of words")
    for name in ("said", "topics"):
        if not isinstance(entry.get(name), list) or not all(isinstance(text, str) for text in entry[name]):
            check.fail(f"{key}.{name}", "is not a list of texts")
    if not isinstance(entry.get("about"), str):
        check.fail(f"{key}.about", "is not a text")
    habits = check.mapping(entry.get("habits"), f"{key}.habits")
    for name in ("complexity", "urgent"):
        check.number(habits.get(name), f"{key}.habits.{name}", 0, 1)
    for term, weight in check.mapping(entry.get("terms"), f"{key}.terms").items():
        check.number(weight, f"{key}.terms.{term}", 0, 100)
    profile = check.mapping(entry.get("emotional_profile"), f"{key}.emotional_profile")
    for emotion in EMOTIONS:
        check.number(profile.get(emotion), f"{key}.emotional_profile.{emotion}", 0, 1)
    for name, value in check.mapping(entry.get("measured"), f"{key}.measured").items():
        if name not in MEASURED:
            check.fail(f"{key}.measured.{name}", "is not a value the router knows")
        check.number(value, f"{key}.measured.{name}", 0, 1 if name == "quality" else 1e9)


class _Check:
    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, what: str) -> None:
        raise InvalidInput(f"{self.source}: {key} {what}", "package the phase again, or restore the file")

    def mapping(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(key, "is not a mapping")
        return value  # type: ignore[no-any-return]

    def number(self, value: Any, key: str, low: float, high: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"is {value!r}, not a number from {low:g} to {high:g}")

    def text(self, value: Any, key: str) -> None:
        if not isinstance(value, str) or not value:
            self.fail(key, f"is {value!r}, not a text")
