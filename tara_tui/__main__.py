"""The console of the workspace that is named, or found from the current folder: `python -m tara_tui [DIR]`."""

import sys

from core.errors import TaraError
from core.workspace import find_workspace
from tara_tui.app import run_console

if __name__ == "__main__":
    try:
        sys.exit(run_console(find_workspace(sys.argv[1] if len(sys.argv) > 1 else None)))
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        sys.exit(int(error.exit_code))
