"""Which folder answers for a phase now: its active release, or its built bundle."""

from pathlib import Path

from core.deploy.releases import VERSIONS
from core.store.reads import open_reader
from core.workspace import Workspace


def release_folder(workspace: Workspace, number: int) -> Path | None:
    """The folder of a phase's active release where it is there, else of its built bundle, or None.

    Raises InvalidInput for an unknown phase.
    """
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
    for release in phase.releases:
        folder = Path(release.target) / VERSIONS / str(release.version)
        if release.active and folder.is_dir():
            return folder
    return workspace.absolute(phase.bundle_path) if phase.bundle_path is not None else None
