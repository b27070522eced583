"""The console's two single lines: what is true of the workspace and machine, and which keys do something now."""

from pathlib import Path

from core.store.views import Snapshot
from tara_tui import present
from tara_tui.commands import COMMANDS
from tara_tui.meters import Meters
from tara_tui.panes.lists import job_counts
from tara_tui.selection import Selection

ALWAYS = "  ? help  : all  q quit"


def shortened(path: Path, room: int) -> str:
    """A folder in at most `room` cells, its end kept."""
    home = str(Path.home())
    text = present.one_line(path)
    text = "~" + text[len(home) :] if text.startswith(home + "/") else text
    return text if len(text) <= room else "~" + text[-room + 1 :]


def status_line(root: Path, snapshot: Snapshot | None, trouble: str, meters: Meters | None, width: int) -> str:
    """Workspace, runner and jobs on the left, meters on the right; with trouble, that what is shown is not current."""
    left = f" TARA {shortened(root, 12 + max(0, width - 80) // 3)}"
    if trouble:
        left = f" TARA NOT CURRENT: {trouble}"
    elif snapshot is not None:
        counts = job_counts(snapshot)
        pid = snapshot.runner_pid
        gone = "stopped" if snapshot.runner_stopped else "off"
        off = f"  runner {gone}: S starts it" if counts else f"  runner {gone}"  # else what is shown of jobs may be old
        left += off if not pid else f"  runner {pid}" if width >= 100 else "  runner on"
        left += f"  {counts}" if counts else ""
    right = meters.line(width - len(left) - 2) if meters else ""
    return left + " " * max(1, width - len(left) - len(right) - 1) + right


def keys_line(snapshot: Snapshot | None, selection: Selection, width: int) -> str:
    """The keys that do something now, as many as there is room for, and those that always do."""
    line = ""
    for one in COMMANDS:
        part = f"  {one.shown.split()[0]} {one.short}"
        if one.short and one.enabled(snapshot, selection) is None:
            if len(line) + len(part) + len(ALWAYS) > width + 1:
                break
            line += part
    return (line + ALWAYS)[1:]
