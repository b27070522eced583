"""What the console asks of a terminal, and how it leaves one it has lost."""

import asyncio
import base64
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping

SMALLEST = (60, 18)
LONGEST_NOTICE = 200
LARGEST_COPY = 74_000  # bytes of text; terminals refuse more in one OSC 52
LEAVE_TIMEOUT_S = 3.0
USE_COMMANDS = "use the commands: tara --help, tara jobs list, tara jobs logs ID"
log = logging.getLogger("tara.console")


def refusal(environment: Mapping[str, str], are_terminals: bool) -> str | None:
    """Why the console cannot run here, in one line, or None."""
    if environment.get("TERM", "") in ("", "dumb"):
        return f"the console needs a terminal it can draw on (TERM={environment.get('TERM', '')!r}); {USE_COMMANDS}"
    if not are_terminals:
        return f"the console needs a terminal for input and output; {USE_COMMANDS}"
    return None


def streams_are_terminals() -> bool:
    """Whether input, output and the stream that is drawn on (standard error) are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__))


def is_gone(descriptor: int = 0) -> bool:
    """Whether the terminal behind a descriptor hung up."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def leave_on_signals(leave: Callable[[int], None]) -> None:
    """Call `leave` with the exit status on SIGTERM and SIGHUP. Call it inside the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave, 128 + number)


def leave_at_last(status: int, clean_up: Callable[[], None]) -> None:
    """End the process by force if it is still there after a while: writing to a lost terminal can block for ever."""

    def end() -> None:
        log.error("the terminal did not let go; leaving by force")
        clean_up()
        os._exit(status)

    timer = threading.Timer(LEAVE_TIMEOUT_S, end)
    timer.daemon = True
    timer.start()


def clipboard_sequence(text: str, environment: Mapping[str, str]) -> str | None:
    """The control sequence that puts text into the clipboard of the person's own terminal, through tmux or screen.

    None where the text is longer than terminals take.
    """
    data = text.encode()
    if len(data) > LARGEST_COPY:
        return None
    return _passed_on(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07", environment)


def notice_sequence(text: str, environment: Mapping[str, str]) -> str:
    """The bell, and the control sequence (OSC 9) that has the person's own terminal show a notice. `text` is one
    clean line."""
    return "\a" + _passed_on(f"\x1b]9;{text[:LONGEST_NOTICE]}\x07", environment)


def _passed_on(plain: str, environment: Mapping[str, str]) -> str:
    """A control sequence as tmux and screen hand it to the terminal outside."""
    if environment.get("TMUX"):
        return f"\x1bPtmux;{plain.replace(chr(27), chr(27) * 2)}\x1b\\"
    if environment.get("TERM", "").startswith("screen"):
        pieces = [plain[begin : begin + 250] for begin in range(0, len(plain), 250)]
        return "".join(f"\x1bP{piece}\x1b\\" for piece in pieces)
    return plain
