"""The engine process: `python -m core.chat.engine_main`. Requests on standard input, events on standard output.

Native code may print what it likes: the real standard output is kept under another descriptor, and descriptor 1 is
pointed at standard error before anything native is imported. The process ends when its input does, so also when the
client dies, however it does.
"""

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.chat.protocol import (
    Ask,
    Cancel,
    Event,
    Failed,
    Finished,
    Judge,
    Judged,
    Load,
    Piece,
    Ready,
    Request,
    decode_request,
    encode,
)
from core.errors import TaraError

if TYPE_CHECKING:
    from core.gguf.runtime import Runtime

GRACE_S = 5.0  # for a native call to return after the input ended
SMALLEST_ANSWER = 64  # tokens kept free for the answer when old messages are left out
STEP = 64  # tokens of a prompt at once: smaller steps are no slower on a processor, and more of a prompt is kept
JUDGED_AT_ONCE = 16  # positions of a judged answer whose logits are held: this times the vocabulary, four bytes each


class Inbox:
    """Requests as they come, read by a thread of its own so that a cancellation is heard during an answer."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._waiting: queue.Queue[Request | TaraError | None] = queue.Queue()
        self._cancelled: set[int] = set()
        self.closed = threading.Event()
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            try:
                request = decode_request(line)
            except TaraError as error:
                self._waiting.put(error)
                continue
            if isinstance(request, Cancel):
                self._cancelled.add(request.id)
            else:
                self._waiting.put(request)
        self.closed.set()
        self._waiting.put(None)
        # The main thread may sit in a native call that never returns; nobody is left to read what it makes.
        threading.Timer(GRACE_S, os._exit, (0,)).start()

    def next(self) -> Request | TaraError | None:
        """The next request, an error for a line that was none, None when the client is gone."""
        return self._waiting.get()

    def cancelled(self, ask_id: int) -> bool:
        """Whether this answer is no longer wanted."""
        return self.closed.is_set() or ask_id in self._cancelled


def fit_messages(
    runtime: "Runtime", messages: Sequence[dict[str, str]], max_tokens: int, context: int = 0
) -> tuple[list[int], int]:
    """The tokens of a conversation that leaves room for an answer, and how many of its oldest messages were left out.

    The system message and the newest message always stay; the rest goes in pairs, question and answer. `context` is how
    many tokens may be used, 0 for all.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    rest = list(messages[len(head) :])
    whole = min(context or runtime.context_length, runtime.context_length)
    room = whole - min(max_tokens, max(SMALLEST_ANSWER, whole // 4))
    forgotten = 0
    while True:
        tokens = runtime.render([*head, *rest])
        if len(tokens) <= room or len(rest) <= 1:
            return tokens, forgotten
        out = min(2, len(rest) - 1)
        rest, forgotten = rest[out:], forgotten + out


def answer(runtime: "Runtime", ask: Ask, inbox: Inbox, out: IO[bytes]) -> None:
    """Answer one request, piece by piece."""
    from core.gguf.sampling import Sampling

    started = time.monotonic()
    changed = runtime.attach(Path(ask.adapter) if ask.adapter else None, base_sha256=ask.base_sha256)
    switch_s = time.monotonic() - started if changed else None
    options = ask.options
    try:
        tokens, forgotten = fit_messages(runtime, ask.messages, options.max_tokens, ask.context)
        generation = runtime.generate(
            tokens,
            max_tokens=options.max_tokens,
            sampling=Sampling(options.temperature, options.top_k, options.top_p, options.min_p, options.seed),
            cancelled=lambda: inbox.cancelled(ask.id),
            begun=ask.begun,
        )
    except TaraError as error:
        _send(out, Failed(ask.id, error.message, error.hint, of_prompt=True))
        return
    sent = len(ask.begun)
    for text in generation:
        _send(out, Piece(ask.id, text, generation.tokens[sent:]))
        sent = len(generation.tokens)
    _send(
        out,
        Finished(
            ask.id,
            generation.text,
            len(generation.tokens),
            generation.prompt_tokens,
            generation.tokens_per_s,
            generation.first_token_s,
            generation.stopped_by or "cancelled",
            forgotten,
            switch_s,
            generation.reused_tokens,
            generation.tokens,
        ),
    )


def judge(runtime: "Runtime", request: Judge, out: IO[bytes]) -> None:
    """Say how probable the base without an adapter finds an answer, with and without its question."""
    from core.gguf.judging import mean_log_probability

    runtime.attach(None)
    asked, tokens = mean_log_probability(runtime, request.messages, request.answer)
    unasked, _ = mean_log_probability(runtime, [{"role": "user", "content": ""}], request.answer)
    _send(out, Judged(request.id, asked, unasked, tokens))


def serve(inbox: Inbox, out: IO[bytes]) -> None:
    """Load the base of the first request and answer the others until the input ends."""
    first = inbox.next()
    if not isinstance(first, Load):
        if first is not None:
            _send(out, Failed(None, "the first request did not name a base to load"))
        return
    from core.gguf.runtime import Runtime

    try:
        path = Path(first.gguf)
        runtime = Runtime(path, n_ctx=first.n_ctx, threads=first.threads, outputs=JUDGED_AT_ONCE, step=STEP)
    except TaraError as error:
        _send(out, Failed(None, error.message, error.hint))
        return
    with runtime:
        _send(out, Ready(runtime.load_s, runtime.context_length))
        while (request := inbox.next()) is not None:
            if isinstance(request, TaraError):
                _send(out, Failed(None, request.message, request.hint))
            elif isinstance(request, Ask | Judge):
                try:
                    if isinstance(request, Ask):
                        answer(runtime, request, inbox, out)
                    else:
                        judge(runtime, request, out)
                except TaraError as error:
                    _send(out, Failed(request.id, error.message, error.hint))
            else:
                _send(out, Failed(None, "a base is loaded already"))


def _send(out: IO[bytes], event: Event) -> None:
    out.write(encode(event))
    out.flush()


def main() -> None:
    """Run as a child of `core.chat.client`; never returns."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    inbox = Inbox(os.fdopen(os.dup(0), "rb"))
    status = 0
    try:
        serve(inbox, out)
    except BrokenPipeError:
        status = 0  # the client went away between two tokens: there is nobody to tell
    except BaseException:  # noqa: BLE001 - a fault of this program: to the log, and the client sees the exit status
        traceback.print_exc()
        status = 1
    # What is native was freed by serve. Interpreter teardown would wait for the reader's lock on standard input.
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
