"""A desk for a release, as `tara route` opens it: with what the workspace has set, and what the folder lacks."""

import shutil
from dataclasses import replace
from pathlib import Path

from core.catalog import load_catalog
from core.phases.routed import desk_of_folder
from core.workspace import Workspace
from tests.conftest import ROOT


def test_a_domain_without_its_adapter_is_no_candidate(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    settings = load_catalog(Workspace(ROOT)).settings
    with desk_of_folder(folder, settings) as desk:
        assert desk.route("How should I lead my team?").domain == "leadership"
    (folder / "adapters" / "leadership.gguf").unlink()
    with desk_of_folder(folder, settings) as desk:
        decision = desk.route("How should I lead my team?")
        assert decision.unavailable == {"leadership": "leadership.gguf is missing"}
        assert "leadership" not in [one.domain for one in decision.candidates]


def test_help_lines_are_those_of_the_workspace_and_else_those_of_the_release(tiny_bundle: Path) -> None:
    settings = load_catalog(Workspace(ROOT)).settings
    with desk_of_folder(tiny_bundle, settings) as desk:
        own = desk.route("I want to kill myself").resources
    with desk_of_folder(tiny_bundle, replace(settings, crisis_region="germany")) as desk:
        german = desk.route("I want to kill myself").resources
    assert own is not None
    assert german is not None
    assert "TelefonSeelsorge" in german
    assert "TelefonSeelsorge" not in own
