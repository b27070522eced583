"""The peer of the start-up benchmark: the least Textual app with the shape of a console.

A header, a table of 30 rows, a log and a footer, and nothing behind them: what Textual itself costs before an
application does any work. Usage: python benchmarks/peer_app.py
"""

from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Header, Log

ROWS = 30
MARKER = "peer-row-07"  # a cell of the table that is on screen in the first useful paint


class PeerApp(App[None]):
    """Four stock widgets, filled when they are mounted."""

    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Quit")]

    def compose(self) -> ComposeResult:
        """Header, table, log, footer."""
        yield Header()
        yield DataTable[str]()
        yield Log()
        yield Footer()

    def on_mount(self) -> None:
        """Fill the table and write a few lines."""
        table = self.query_one(DataTable)
        table.add_columns("name", "state", "loss", "quality")
        for row in range(ROWS):
            table.add_row(f"peer-row-{row:02d}", "complete", "2.345", "0.512")
        self.query_one(Log).write_lines(f"line {number} of the log" for number in range(50))


if __name__ == "__main__":
    PeerApp().run()
