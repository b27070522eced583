"""The chat tester: a question, who answers it and why, the answer as it comes, how fast it came."""

import logging
import threading
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from core.chat.protocol import EngineClosed
from core.errors import TaraError
from core.text import clean
from tara_tui import present
from tara_tui.backend import Backend, Bundle, ChatEvent, ChatSession, Compared, Done, Notice, Routed, Token
from tara_tui.dialogs import line_input
from tara_tui.widgets.transcript import Entry, Transcript

BATCH_S = 0.08  # between two paints of an answer
MAX_QUESTION = 20_000  # characters
HOW_TO_ASK = "i asks; f: the router or the selected domain answers"
log = logging.getLogger("tara.console")


class ChatAdvanced(Message):
    """Something came from the engine and waits to be shown."""


@dataclass(frozen=True)
class Failed:
    """The answer ended in an error, said in one clean line."""

    line: str


class ChatPane(Vertical):
    """One conversation with one bundle. Answers are made in a thread that waits on the engine process."""

    HELP = (
        "Chat with the release, or the newest bundle, of the selected phase. i goes to the question line, Enter asks, "
        "Esc stops the answer, Esc again leaves the line so that letter keys work; Enter then explains the routing. "
        "f or F6 switches between the router and the selected domain, v or F7 between releases and bundles, e or F9 "
        "between speed and quality; C talks to a single model or adapter. The engine is a process of its own and ends "
        "with the console."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("pageup", "scroll_answer(-1)", show=False),
        Binding("pagedown", "scroll_answer(1)", show=False),
    ]

    def __init__(self, backend: Backend) -> None:
        super().__init__(id="chat")
        self.backend = backend
        self.bundle: Bundle | None = None
        self.domain: str | None = None  # who is forced to answer; None: the router chooses
        self.generating = False
        self.answer = ""
        self.speed = ""
        self._compared = False  # two domains answered, and both answers are shown
        self.route: tuple[str, ...] = ()  # why the last answer came from whom it came
        self.preference = ""  # chosen here; '' is the settings' own
        self._working = threading.Lock()  # one at a time: the engine is started, or asked
        self._serial = 0
        self._session: ChatSession | None = None
        self._session_bundle: Bundle | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()  # over the session: made in a thread, ended from the app's
        self._ended = False
        self._events: SimpleQueue[tuple[int, ChatEvent | Failed]] = SimpleQueue()
        self._told = threading.Event()  # the app knows that events wait; it looks again by itself
        self._title = ""
        self._hint = ""  # what to press where there is nothing to talk to

    def compose(self) -> ComposeResult:
        """What was said over the line to ask in."""
        yield Transcript(id="transcript")
        yield line_input(placeholder="i asks a question here", id="question")

    def on_mount(self) -> None:
        """Say what there is to talk to."""
        self.query_one("#question", Input).disabled = True
        self.retitle()

    def target(self, bundle: Bundle | None, domain: str | None, hint: str) -> None:
        """Talk to this bundle; `domain` answers always, or None. `hint` says what to press where there is no bundle."""
        if bundle != self.bundle:
            self.bundle = bundle
            question = self.query_one("#question", Input)
            question.disabled = bundle is None
        self.domain = domain
        transcript = self.query_one(Transcript)
        empty = HOW_TO_ASK if bundle is not None else hint
        if empty != transcript.empty:
            transcript.empty = empty
            transcript.refresh()
        self._hint = hint
        self.retitle()

    def retitle(self) -> None:
        """Put what is talked to, and how, into the title."""
        parts = ["Chat"]
        if self.bundle is None:
            parts.append("nothing to talk to yet" if self._hint else "no phase yet")
        else:
            parts += [self.bundle.label, f"always {present.one_line(self.domain)}" if self.domain else "routed"]
            if self.preference:
                parts.append(self.preference)
            if self.generating:
                parts.append("answering, Esc stops")
            elif self.speed:
                parts.append(self.speed)
        title = "  ".join(parts)
        if title != self._title:
            self._title = title
            self.border_title = Content(title)  # type: ignore[assignment]

    @property
    def title(self) -> str:
        """The title as plain text."""
        return self._title

    @on(Input.Submitted, "#question")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.ask(event.value):
            event.input.value = ""

    def ask(self, question: str) -> bool:
        """Ask the bundle; False where nothing was asked."""
        question = question.strip()[:MAX_QUESTION]
        if not question or self.bundle is None:
            return False
        if self.generating:
            self.notify("an answer is being made: Esc stops it", markup=False)
            return False
        self._serial += 1
        self.generating, self.answer, self.speed, self._compared = True, "", "", False
        self._stop.clear()
        transcript = self.query_one(Transcript)
        transcript.add(Entry(f"> {clean(question)}", "head"))
        ready = self._session is not None and self._session_bundle == self.bundle
        transcript.add(Entry("routing ..." if ready else "starting the engine ...", "dim"))
        self.retitle()
        work = partial(self._answer, self._serial, question, self.domain, self.bundle)
        self.run_worker(work, thread=True, group="chat", exit_on_error=False)
        return True

    @property
    def told(self) -> tuple[str, ...]:
        """Why the last answer came from whom it came, and what the caches knew so far."""
        with self._lock:
            session = self._session
        return (*self.route, session.stats()) if session is not None and self.route else self.route

    def warm(self) -> None:
        """Have the engine of what is talked to started before the first question."""
        if self.bundle is None or self.generating:
            return
        work = partial(self._warm, self.domain, self.bundle)
        self.run_worker(work, thread=True, group="chat", exit_on_error=False)

    def _warm(self, domain: str | None, bundle: Bundle) -> None:
        with self._working:
            try:
                self._ready_session(bundle).prepare(domain)
            except TaraError as error:
                log.info("the engine was not started: %s", error.one_line())  # the question will say it
                self._end_if_closed(error)

    def prefer(self, name: str) -> None:
        """Speed, balanced or quality from the next question on, once `tell_preference` is done."""
        self.preference = name
        self.retitle()

    def tell_preference(self) -> str:
        """Tell the engine that runs, and what it means; in a thread."""
        from core.chat.preference import preference

        with self._lock:
            session = self._session
        return session.prefer(self.preference) if session is not None else preference(self.preference).line()

    def forget_person(self) -> None:
        """The person's history was erased: what is loaded of it goes too."""
        with self._lock:
            session = self._session
        if session is not None:
            session.forget_person()

    def stop_answer(self) -> None:
        """Stop the answer that is being made."""
        self._stop.set()
        with self._lock:
            session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """End the engine process; the last thing the console does with it."""
        self._ended = True
        self._stop.set()
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _answer(self, serial: int, question: str, domain: str | None, bundle: Bundle) -> None:
        """Wait on the engine and hand on what it says; runs in a thread."""
        try:
            with self._working:
                ended = False
                for event in self._ready_session(bundle).ask(question, domain):
                    ended = ended or isinstance(event, Done)
                    self._give(serial, event)
                    if self._stop.is_set() and not ended:
                        self.stop_answer()
                if not ended:
                    self._give(serial, Done(0, None, "cancelled"))
        except TaraError as error:
            self._fail(serial, error, error.one_line())
        except Exception as error:  # noqa: BLE001 - whatever the engine does, the console stays and says so
            self._fail(serial, error, f"{type(error).__name__}: {error}")

    def _fail(self, serial: int, error: Exception, line: str) -> None:
        if not self._ended:
            log.exception("the chat failed")
        self._end_if_closed(error)
        self._give(serial, Failed(present.one_line(line)))

    def _end_if_closed(self, error: Exception) -> None:
        """End a conversation whose engine is closed for good. Another failure takes the answer alone: what was said
        before, a crisis above all, belongs to the next question too."""
        if isinstance(error, EngineClosed):
            self._end_session()

    def _give(self, serial: int, event: ChatEvent | Failed) -> None:
        """Queue an event for the app, and tell it unless it knows."""
        self._events.put((serial, event))
        if not self._told.is_set():
            self._told.set()
            self.post_message(ChatAdvanced())

    def _end_session(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _ready_session(self, bundle: Bundle) -> ChatSession:
        with self._lock:
            session = self._session
        if session is not None and self._session_bundle == bundle:
            return session
        self._end_session()
        session = self.backend.open_chat(bundle)
        if self.preference:
            session.prefer(self.preference)
        with self._lock:
            if not self._ended:
                self._session, self._session_bundle = session, bundle
                return session
        session.close()  # the console left while the engine was starting
        raise TaraError("the console is closing")

    def on_chat_advanced(self, message: ChatAdvanced) -> None:
        """Show what came."""
        message.stop()
        self._show_waiting()

    def _show_waiting(self) -> None:
        """Show all that waits, and look again a moment later until nothing came: tokens are painted in batches."""
        came = False
        while not self._events.empty():
            serial, event = self._events.get()
            came = True
            if serial == self._serial:
                self._show(event)
        if came:
            self.set_timer(BATCH_S, self._show_waiting)
            return
        self._told.clear()
        if not self._events.empty():  # it came after the look and before the clearing
            self._told.set()
            self._show_waiting()

    def _show(self, event: ChatEvent | Failed) -> None:
        transcript = self.query_one(Transcript)
        if isinstance(event, Routed):
            self.route = tuple(clean_text(line) for line in event.details)
            transcript.replace_last(Entry(present.one_line(event.explanation), "dim"))
            transcript.add(Entry(""))
        elif isinstance(event, Notice):
            if event.anew and self.answer:  # what was said stays to be read; else the answer goes on below the notice
                transcript.replace_last(Entry(clean_text(self.answer)))
                transcript.add(Entry(""))
                self.answer = ""
            transcript.replace_last(Entry(clean_text(event.text), "warn"))
            transcript.add(Entry(""))
        elif isinstance(event, Compared):
            transcript.replace_last(Entry(clean_text(self.answer)))
            transcript.add(Entry(clean_text(event.line), "dim"))
            transcript.add(Entry(clean_text(f"{event.other} would have said: {event.text}"), "dim"))
            transcript.add(Entry(""))
            self._compared = True
        elif isinstance(event, Token):
            self.answer += event.text
            if self._events.empty():
                transcript.replace_last(Entry(clean_text(self.answer)))
        elif isinstance(event, Done):
            self.speed = f"{event.tokens_per_s:.0f} tok/s" if event.tokens_per_s else ""
            said = f"{event.tokens} tokens" + (f", {self.speed}" if self.speed else "") + f", ended by {event.reason}"
            line = Entry(clean_text(event.told) or said, "dim")
            if self._compared:  # the answer stands above what it was compared with
                transcript.replace_last(line)
            else:
                transcript.replace_last(Entry(clean_text(self.answer)))
                transcript.add(line)
        else:
            if self.answer:
                transcript.replace_last(Entry(clean_text(self.answer)))
                transcript.add(Entry(""))
            transcript.replace_last(Entry(event.line, "bad"))
        if isinstance(event, Done | Failed):
            self.generating = False
            self.retitle()
            self.post_message(self.Ended())

    class Ended(Message):
        """An answer is complete, stopped or failed."""

    def action_leave(self) -> None:
        """Stop the answer; with none, leave the question line."""
        if self.generating:
            self.stop_answer()
        else:
            self.query_one(Transcript).focus()

    def action_scroll_answer(self, step: int) -> None:
        """Scroll what was said while typing."""
        self.query_one(Transcript).action_page(step)


def clean_text(text: str) -> str:
    """Text of several lines made harmless, line by line."""
    return "\n".join(clean(line) for line in text.split("\n"))
