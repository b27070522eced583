"""What threads tell the app. Each carries frozen facts."""

from textual.message import Message

from core.store.views import Snapshot
from tara_tui.meters import Meters


class SnapshotArrived(Message):
    """The store was read and differs from what was shown."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class StoreFailed(Message):
    """The store could not be read; reading goes on."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line


class MetersSampled(Message):
    """The machine was measured and shows other figures than before."""

    def __init__(self, meters: Meters) -> None:
        super().__init__()
        self.meters = meters


class ActionEnded(Message):
    """A wish was carried out, or refused in one line."""

    def __init__(self, line: str, failed: bool, dialog_id: int | None = None) -> None:
        super().__init__()
        self.line = line
        self.failed = failed
        self.dialog_id = dialog_id
