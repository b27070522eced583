"""Five target sizes: what `recommend` names first is built with the command it prints, and its size compared."""

import json

from core.store.reads import open_reader
from core.workspace import Workspace
from tests.combinations.box import PHASE
from tests.combinations.ways import tara

TARGETS = (96, 108, 118, 127, 150)  # MB: between the plain types of the base
MOST = 0.01  # of the built file: how far the predicted size may be off


def build_recommended(workspace: Workspace) -> list[list[str]]:
    """A row a target. Raises AssertionError where a built file is off by more."""
    rows = []
    for target in TARGETS:
        found = json.loads(tara(workspace, "recommend", str(PHASE), "--target-size", str(target), "--json"))
        first = next(choice for choice in found["choices"] if choice["recommended"])
        predicted, how = first["bytes"]["value"], first["bytes"]["by"]
        program, *words = found["command"].split()
        assert program == "tara", found["command"]
        tara(workspace, *words, "--json")
        with open_reader(workspace) as reader:
            folder = workspace.absolute(str(reader.phase(PHASE).bundle_path))
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        ((_, entry),) = manifest["bases"].items()
        built = (folder / entry["file"]).stat().st_size
        error = predicted / built - 1
        rows.append([str(target), found["recommended"], f"{predicted:.0f}", how, str(built), f"{error:+.3%}"])
        assert abs(error) <= MOST, rows
        assert built <= target * 1e6, rows
    return rows
