"""The log of one job, as it grows."""

import logging
import re
import threading
from pathlib import Path

from textual.message import Message

from core.store.views import JobView
from core.text import clean
from tara_tui import present
from tara_tui.widgets.log_file import LogChunk, LogFile, lines_before
from tara_tui.widgets.log_view import LogView

POLL_S = 0.25
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
TAKE_TIMEOUT_S = 5.0
log = logging.getLogger("tara.console")


def clean_line(line: str) -> str:
    """A line of a log made harmless. Colour codes go without a trace: trainers write many."""
    return clean(COLOURS.sub("", line) if "\x1b" in line else line)


class LogGrew(Message):
    """A poll of a log found something."""

    def __init__(self, path: Path, chunk: LogChunk) -> None:
        super().__init__()
        self.path = path
        self.chunk = chunk


class LogPane(LogView):
    """Shows the file of the job it is given. One thread reads; it waits until a batch was taken before the next."""

    HELP = (
        "The log of the selected job: in the dashboard that of the phase or domain under the cursor, whichever list "
        "you were in last. It follows the end until you scroll up; then new lines are counted and G follows again. "
        "h l scroll sideways, / filters, y copies what is on view, k at the top loads older lines."
    )

    def __init__(self) -> None:
        super().__init__(id="log")
        self.path: Path | None = None
        self.job: JobView | None = None
        self.note = ""
        self._start = 0  # offset in the file of the first line held
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._taken = threading.Event()

    def on_mount(self) -> None:
        """Start the thread that reads."""
        self.run_worker(self._read, thread=True, group="log", exit_on_error=False)

    def on_unmount(self) -> None:
        """End the thread that reads."""
        self.stop()

    def stop(self) -> None:
        """End the thread that reads."""
        self._stop.set()
        self._wake.set()
        self._taken.set()

    def watch_job(self, root: Path, job: JobView | None) -> None:
        """Show the log of a job (None: of none)."""
        self.job = job
        path = root / job.run_dir / "log" if job is not None and job.run_dir else None
        if path != self.path:
            self.path = path
            self.note = ""
            self.clear()
            self._wake.set()
        self.retitle()

    def retitle(self) -> None:
        """Put what there is to know into the title."""
        job = self.job
        if job is None:
            self.set_title("Log  no job")
            return
        parts = [f"Log  job {job.id} {present.one_line(job.title)}: {job.state}"]
        if job.active and job.step is not None:
            parts[0] += f" {present.progress(job)} {present.percent(job)}".rstrip()
        if not self.follow:
            parts.append(f"+{self.unseen} new lines, G follows" if self.unseen else "scrolled up, G follows")
        if self.filter:
            parts.append(f"/{present.one_line(self.filter)} {len(self.shown)} of {len(self.lines)}")
        if job.error:
            parts.append(present.one_line(job.error))
        elif self.path is None:
            parts.append("not started, no log yet")
        elif self.note:
            parts.append(self.note)
        if job.active and "loss" in job.metrics:
            parts.append(f"loss {present.figure(job.metrics['loss'])}")
        if job.active and job.eta_s is not None:
            parts.append(f"{present.span(job.eta_s)} left")
        self.set_title("  ".join(parts))

    def on_log_view_follow_changed(self) -> None:
        """Say in the title how far behind the reader is."""
        self.retitle()

    def on_log_view_top_reached(self) -> None:
        """Load the block before the first line."""
        if self.path is None or not self._start:
            return
        try:
            lines, self._start = lines_before(self.path, self._start, clean_line)
        except OSError as error:
            self.note = present.one_line(error)
            self.retitle()
            return
        self.prepend(lines)

    def on_log_grew(self, message: LogGrew) -> None:
        """Take a batch, if it is of the log on view, and let the thread go on."""
        message.stop()
        chunk = message.chunk
        if message.path == self.path:
            if chunk.reset:
                self.clear()
                self._start = chunk.start
            self.note = chunk.note
            self.append(chunk.lines, chunk.partial, chunk.uncounted)
            if chunk.reset or self.filter:
                self.retitle()
        self._taken.set()

    def _read(self) -> None:
        """Poll the file on view until told to stop; runs in its own thread."""
        file: LogFile | None = None
        while not self._stop.is_set():
            self._wake.clear()
            path = self.path
            if file is not None and file.path != path:
                file.close()
                file = None
            if file is None and path is not None:
                file = LogFile(path, clean_line)
            chunk = self._poll(file) if file is not None else None
            if file is not None and chunk is not None:
                self._taken.clear()
                if not self._stop.is_set() and self.post_message(LogGrew(file.path, chunk)):
                    self._taken.wait(TAKE_TIMEOUT_S)
            if chunk is None or not chunk.more:
                self._wake.wait(POLL_S)
        if file is not None:
            file.close()

    def _poll(self, file: LogFile) -> LogChunk | None:
        try:
            return file.poll()
        except OSError as error:
            log.exception("reading a log failed")
            file.close()
            self._wake.wait(2.0)
            return LogChunk((), reset=True, note=present.one_line(error))
