"""Where a workspace's files are, and how one is found."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from core.errors import EnvironmentLacks, InvalidInput

MARKER = Path("configs") / "universal_domains.yaml"
ROOT_VARIABLE = "TARA_ROOT"


@dataclass(frozen=True)
class Workspace:
    """The one layout every step uses; all paths derive from `root`."""

    root: Path

    @property
    def configs(self) -> Path:
        """Plain files a person edits: domains, model mappings, presets, settings, starter data."""
        return self.root / "configs"

    @property
    def data(self) -> Path:
        """The person's own training data, `<domain>.jsonl` or `<domain>.json`."""
        return self.root / "data"

    @property
    def state_db(self) -> Path:
        """The one record of state."""
        return self.root / "state.db"

    @property
    def artifacts(self) -> Path:
        """What jobs made: `<kind>/<name>-<key>`."""
        return self.root / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Where unfinished trainings stand: `<domain>-<key>/step-<number>`."""
        return self.root / "checkpoints"

    def checkpoint_folder(self, domain: str, key: str) -> Path:
        """Where one training's checkpoints are, whichever attempt of it runs. `key` is the job's."""
        return self.checkpoints / f"{domain}-{key[:8]}"

    @property
    def runs(self) -> Path:
        """One folder an attempt: spec, log, events, exit record."""
        return self.root / "runs"

    @property
    def releases(self) -> Path:
        """Where a phase is deployed when no target is named."""
        return self.root / "releases"

    def relative(self, path: Path) -> str:
        """`path` as the store keeps it: relative to the root where it lies inside, absolute elsewhere."""
        absolute = path if path.is_absolute() else self.root / path
        try:
            return str(absolute.relative_to(self.root))
        except ValueError:
            return str(absolute)

    def absolute(self, stored: str | Path) -> Path:
        """The file a stored path names."""
        return self.root / stored  # an absolute right side wins

    def run_folder(self, job_id: int, attempt: int) -> Path:
        """The folder of one attempt: `runs/12` for the first, `runs/12.2` for the second."""
        return self.runs / (str(job_id) if attempt <= 1 else f"{job_id}.{attempt}")


def find_workspace(root: str | Path | None = None) -> Workspace:
    """The workspace named by `root`, else by TARA_ROOT, else the current folder or the nearest one above it.

    Raises InvalidInput when there is none.
    """
    named = root or os.environ.get(ROOT_VARIABLE)
    if named:
        folder = Path(os.path.expanduser(named)).resolve()  # Path.expanduser fails where there is no such user
        if (folder / MARKER).is_file():
            return Workspace(folder)
        raise InvalidInput(f"{folder} is not a TARA workspace (no {MARKER})", f"make one with: tara init {folder}")
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / MARKER).is_file():
            return Workspace(folder)
    raise InvalidInput(
        f"no TARA workspace in {here} or above it",
        f"make one with `tara init DIR`, or name one with --root or {ROOT_VARIABLE}",
    )


def shipped_configs() -> Path:
    """The configs TARA comes with: beside the packages in a checkout, under the environment's `share` where it is
    installed.

    Raises EnvironmentLacks where they are in neither place.
    """
    beside = Path(__file__).parents[1] / "configs"
    installed = Path(sys.prefix) / "share" / "tara" / "configs"
    for folder in (beside, installed):
        if (folder / MARKER.name).is_file():
            return folder
    raise EnvironmentLacks(f"the shipped configs are in neither {beside} nor {installed}", "install TARA again")
