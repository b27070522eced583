"""The configs that come with TARA."""

import sys
from pathlib import Path

import core
from core.errors import EnvironmentLacks
from core.workspace import MARKER


def template() -> Path:
    """The shipped configs: beside the packages in a checkout, under the environment's `share` where TARA is installed.

    Raises EnvironmentLacks where they are in neither place.
    """
    beside = Path(core.__file__).parent.parent / "configs"
    installed = Path(sys.prefix) / "share" / "tara" / "configs"
    for folder in (beside, installed):
        if (folder / MARKER.name).is_file():
            return folder
    raise EnvironmentLacks(f"the shipped configs are in neither {beside} nor {installed}", "install TARA again")
