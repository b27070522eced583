"""The runner's process: one a workspace, detached. Usage: python -m core.runner ROOT"""

import logging
import os
import signal
import sys
from types import FrameType

from core.errors import InvalidInput, TaraError
from core.files import sync_tree
from core.runner.presence import hold, still_held, unclean_mark
from core.runner.supervisor import Supervisor
from core.store.engine import Store, open_store
from core.store.integrity import faults_of
from core.store.version import MEND
from core.workspace import Workspace, find_workspace


def main(root: str) -> int:
    """Run the queue of the workspace at `root`; 0 also where another runner has it already."""
    workspace = find_workspace(root)
    lock = hold(workspace)
    if lock is None:
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        supervisor = Supervisor(workspace, _whole_store(workspace), lock)
    except TaraError as error:
        logging.error("%s", error.one_line())
        return int(error.exit_code)
    unclean = unclean_mark(workspace)
    try:
        unclean.touch()
        sync_tree(unclean.parent, recurse=False)
    except OSError as error:  # a full disk is no reason not to look after what runs
        logging.warning("%s cannot be written: %s", unclean, error)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Jobs go on: the next runner finds them by their folders.
        supervisor.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logging.info("runner %d of %s", os.getpid(), workspace.root)
    supervisor.run()
    if still_held(workspace, lock):  # else the mark is the next runner's
        unclean.unlink(missing_ok=True)
    return 0


def _whole_store(workspace: Workspace) -> Store:
    """The open store. Where the last runner did not leave of its own accord, its file was read through before.

    Raises InvalidInput where it is damaged: then nothing is started, for what it says cannot be relied upon.
    """
    if unclean_mark(workspace).exists():
        faults = faults_of(workspace.state_db)
        if faults:
            raise InvalidInput(f"{workspace.state_db} is damaged ({faults[0]})", MEND)
    return open_store(workspace, keep=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
