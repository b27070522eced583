"""Routing data: what the router needs, as one JSON file that ships with a release."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.errors import InvalidInput
from core.routing import crisis
from core.routing.fit import fit_calibration, prompt_features, stem_keywords, weigh_terms
from core.routing.lexicon import EMOTIONS

VERSION = 1
FILE_NAME = "routing.json"
TERMS = ("content", "emotion", "speed", "quality")
MEASURED = ("tokens_per_s", "first_token_s", "load_s", "quality")
DEFAULT_SETTINGS: dict[str, Any] = {
    "weights": {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1},
    "unsure_below": 0.4,  # least probability of the chosen domain
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
) -> dict[str, Any]:
    """Routing data for a set of domains, ready for `json.dump`; `Router.from_data` takes it.

    `prompts` holds each domain's training prompts (what people write, not the answers). `measurements` holds, by
    domain, values by name: `tokens_per_s`, `first_token_s`, `load_s` and `quality` (held-out token accuracy, 0..1) are
    used; one that is absent stays "not measured". `settings` may replace entries of DEFAULT_SETTINGS, and may hold
    "crisis", `{"region": name, "resources": {region: text}}`, the help lines shown in a crisis; others are ignored.
    """
    chosen = sorted(domains, key=lambda domain: domain.name)
    if not chosen:
        raise InvalidInput("routing needs at least one domain", "add a domain to the phase first")
    # The title counts with the description: people name what they want.
    descriptions = {domain.name: f"{domain.title}. {domain.description}" for domain in chosen}
    keywords = {domain.name: list(domain.keywords) for domain in chosen}
    said = {domain.name: list(prompts.get(domain.name, ())) for domain in chosen}
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
                "emotional_profile": {name: float(domain.emotional_profile.get(name, 0.0)) for name in EMOTIONS},
                "measured": {
                    name: float(value)
                    for name, value in measurements.get(domain.name, {}).items()
                    if name in MEASURED and isinstance(value, int | float)
                },
            }
            for domain in chosen
        },
    }
    return validate(data, "routing data")


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
    if data.get("version") != VERSION:
        check.fail("version", f"is {data.get('version')!r}, this program reads {VERSION}")
    settings = check.mapping(data.get("settings"), "settings")
    weights = check.mapping(settings.get("weights"), "settings.weights")
    for name in TERMS:
        check.number(weights.get(name), f"settings.weights.{name}", 0, 1)
    if not math.isclose(math.fsum(weights[name] for name in TERMS), 1, abs_tol=1e-6):
        check.fail("settings.weights", "do not sum to 1")
    for name in ("unsure_below", "near_best"):
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
    return data  # type: ignore[no-any-return]


def _check_domain(check: "_Check", key: str, entry: Any) -> None:
    check.mapping(entry, key)
    check.text(entry.get("title"), f"{key}.title")
    check.text(entry.get("safety_tier"), f"{key}.safety_tier")
    if not isinstance(entry.get("keywords"), list) or not all(isinstance(word, str) for word in entry["keywords"]):
        check.fail(f"{key}.keywords", "is not a list of words")
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


def median_of_others(values: Mapping[str, float | None], name: str, default: float) -> float:
    """What stands in for an unmeasured value of `name`: the median of the measured ones, else `default`."""
    known = sorted(value for other, value in values.items() if other != name and value is not None)
    if not known:
        return default
    middle = len(known) // 2  # `statistics` would cost a third of this package's import
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
