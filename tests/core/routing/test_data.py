"""Routing data that cannot be used is refused with the file and the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from core.routing import Router, build_routing_data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(version=3), "version"),
        (lambda d: d.pop("settings"), "settings"),
        (lambda d: d["settings"]["weights"].update(speed=0.5), "settings.weights"),
        (lambda d: d["settings"]["weights"].update(speed=-0.2), "settings.weights.speed"),
        (lambda d: d["settings"].update(unsure_below="high"), "settings.unsure_below"),
        (lambda d: d["calibration"].update(temperature=0), "calibration.temperature"),
        (lambda d: d["calibration"].update(none_bias=float("nan")), "calibration.none_bias"),
        (lambda d: d["resources"].pop("suicide"), "resources.suicide"),
        (lambda d: d.update(domains={}), "domains"),
        (lambda d: d["domains"]["business"]["emotional_profile"].pop("joy"), "domains.business.emotional_profile.joy"),
        (lambda d: d["domains"]["business"].update(keywords=["a", 1]), "domains.business.keywords"),
        (lambda d: d["domains"]["business"]["terms"].update(price=None), "domains.business.terms.price"),
        (lambda d: d["domains"]["business"]["measured"].update(quality=7), "domains.business.measured.quality"),
        (lambda d: d["domains"]["business"]["measured"].update(beauty=1), "domains.business.measured.beauty"),
        (lambda d: d["domains"].update(business=[]), "domains.business"),
    ],
)
def test_a_fault_is_named(data: dict[str, Any], tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    change(data)
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(InvalidInput) as caught:
        Router.load(path)
    assert str(path) in caught.value.message
    assert f" {words} " in caught.value.message


def test_files_that_are_missing_or_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"routing\.json"):
        Router.load(tmp_path / "routing.json")
    (tmp_path / "routing.json").write_text("{", "utf-8")
    with pytest.raises(InvalidInput, match="not JSON"):
        Router.load(tmp_path / "routing.json")
    with pytest.raises(InvalidInput):
        Router.from_data([])  # type: ignore[arg-type]


def test_a_written_file_routes_as_the_data_does(built: dict[str, Any], router: Router, tmp_path: Path) -> None:
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(built, ensure_ascii=False), "utf-8")
    assert Router.load(path).route("How should I lead my team?") == router.route("How should I lead my team?")


def test_crisis_help_lines_come_from_the_settings(catalog: Any) -> None:
    domain = [catalog.domains["healthcare"]]
    crisis = {"region": "here", "resources": {"here": "Call 12345."}}
    data = build_routing_data(domain, {}, {}, {"crisis": crisis})
    decision = Router.from_data(data).route("I want to end my life")
    assert decision.resources is not None
    assert decision.resources.endswith("Call 12345.")
    with pytest.raises(InvalidInput, match=r"crisis\.region"):
        build_routing_data(domain, {}, {}, {"crisis": {"region": "there", "resources": {}}})


def test_measurements_that_are_no_numbers_or_unknown_are_left_out(catalog: Any) -> None:
    measured = {"healthcare": {"quality": 0.5, "tokens_per_s": "declared", "base_loss": 3.0}}
    data = build_routing_data([catalog.domains["healthcare"]], {}, measured)
    assert data["domains"]["healthcare"]["measured"] == {"quality": 0.5}


def test_no_domains_is_an_error() -> None:
    with pytest.raises(InvalidInput):
        build_routing_data([], {}, {})
