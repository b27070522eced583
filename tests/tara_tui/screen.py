"""Driving the console without a terminal: wait for what shows, read the screen as text."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from textual.message import Message
from textual.pilot import Pilot

from core.store.views import JobView, Snapshot
from tara_tui.app import ConsoleApp
from tests.tara_tui.fake_backend import FakeBackend

TIMEOUT_S = 20.0
SIZES = ((80, 24), (120, 36))


class Console:
    """The app, its pilot and its backend."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[int], backend: FakeBackend, moved: asyncio.Event) -> None:
        self.app = app
        self.pilot = pilot
        self.backend = backend
        self._moved = moved

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Return once the condition holds; it is looked at after every message that any widget handled."""

        async def wait() -> None:
            while not holds():
                self._moved.clear()
                await self._moved.wait()
            await self.pilot.pause()

        try:
            await asyncio.wait_for(wait(), TIMEOUT_S)
        except TimeoutError:
            raise AssertionError(f"never came true: {what}\n{self.text()}") from None

    async def shows(self, *texts: str) -> None:
        """Return once the screen shows all these texts."""
        await self.until(lambda: all(text in self.text() for text in texts), f"the screen shows {texts}")

    async def press(self, *keys: str) -> None:
        """Press keys and wait until they were handled."""
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def write(self, text: str) -> None:
        """Type a text."""
        names = {
            " ": "space",
            "/": "slash",
            "[": "left_square_bracket",
            "]": "right_square_bracket",
            "!": "exclamation_mark",
        }
        await self.press(*(names.get(letter, letter) for letter in text))

    async def put(self, snapshot: Snapshot) -> None:
        """Make the store say this, and wait until the app knows."""
        self.backend.put(snapshot)
        version = self.backend.current.version
        await self.until(lambda: self.app.snapshot is not None and self.app.snapshot.version == version, "the snapshot")

    def text(self) -> str:
        """The screen as lines of text, with all styles left out."""
        screen = self.app.screen
        lines = screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)

    def focused(self) -> str:
        """The id of the widget with the focus."""
        return str(self.app.screen.focused.id) if self.app.screen.focused is not None else ""


@asynccontextmanager
async def console(backend: FakeBackend, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Console]:
    """The console at a size, after its first snapshot."""
    moved = asyncio.Event()

    def hook(_message: Message) -> None:
        moved.set()

    app = ConsoleApp(backend, machine=False)
    async with app.run_test(size=size, message_hook=hook, notifications=True) as pilot:
        driven = Console(app, pilot, backend, moved)
        await driven.until(lambda: app.snapshot is not None, "the first snapshot")
        yield driven
        app.leave(0)


def idle(snapshot: Snapshot) -> Snapshot:
    """The snapshot with nothing at work: the training has succeeded."""

    def ended(job: JobView | None) -> JobView | None:
        return replace(job, state="succeeded", ended_at=job.created_at + 500) if job is not None and job.active else job

    phases = tuple(
        replace(phase, domains=tuple(replace(one, job=ended(one.job)) for one in phase.domains))
        for phase in snapshot.phases
    )
    return replace(snapshot, phases=phases, jobs=tuple(ended(job) for job in snapshot.jobs))
