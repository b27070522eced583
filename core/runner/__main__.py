"""The runner's process: one a workspace, detached. Usage: python -m core.runner ROOT"""

import logging
import os
import signal
import sys
from types import FrameType

from core.errors import TaraError
from core.runner.presence import hold
from core.runner.supervisor import Supervisor
from core.store.engine import open_store
from core.workspace import find_workspace


def main(root: str) -> int:
    """Run the queue of the workspace at `root`; 0 also where another runner has it already."""
    workspace = find_workspace(root)
    lock = hold(workspace)
    if lock is None:
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        supervisor = Supervisor(workspace, open_store(workspace, keep=True), lock)
    except TaraError as error:
        logging.error("%s", error.one_line())
        return int(error.exit_code)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Jobs go on: the next runner finds them by their folders.
        supervisor.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logging.info("runner %d of %s", os.getpid(), workspace.root)
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
