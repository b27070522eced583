"""The encoder's process: `python -m core.encoder.engine_main`. Requests on standard input, answers on standard output.

Native code may print what it likes: the real standard output is kept under another descriptor, and descriptor 1 is
pointed at standard error before anything native is imported. The process ends when its input does, so also when the
client dies, however it does.
"""

import base64
import os
import sys
from functools import partial
from pathlib import Path
from typing import IO, Any

from core.encoder.graph_file import BY_BYTES, BY_FLOATS, Graph, graph_of_file
from core.encoder.protocol import EncoderError, decode, encode
from core.errors import TaraError


def serve(requests: IO[bytes], out: IO[bytes]) -> None:
    """Load the encoder that the first request names and answer the others until the input ends."""
    engine: Any = None
    processors = os.sched_getaffinity(0)  # before anything binds this thread to one of them
    for line in requests:
        try:
            request = decode(line)
            if engine is None:
                engine, reads = open_engine(request, processors)
                answer: dict[str, Any] = {
                    "ready": {
                        "dimension": engine.dimension,
                        "context_length": engine.context_length,
                        "reads": reads,
                    }
                }
            else:
                adapters = [None if one is None else Path(one) for one in request.get("adapters", [None])]
                rows = b"".join(engine.embed(text, adapters).astype("<f4").tobytes() for text in request["texts"])
                answer = {"vectors": base64.b64encode(rows).decode("ascii")}
        except TaraError as error:
            answer = {"error": error.message, "hint": error.hint}
        out.write(encode(answer))
        out.flush()
    if engine is not None:
        engine.close()


def open_engine(request: dict[str, Any], processors: set[int]) -> tuple[Any, str]:
    """The file that a request names, loaded by the faster engine that can read it, and by what that reads."""
    gguf = Path(request["load"])

    def in_floats() -> Any:
        from core.encoder.engine import Engine

        return Engine(gguf, threads=request["threads"], processors=processors)

    try:
        graph = graph_of_file(gguf)
        why = graph.why_not
        if graph.file is not None:
            from core.encoder.byte_engine import ByteEngine

            return ByteEngine(gguf, graph.file, partial(_graph_under, gguf), in_floats, processors), BY_BYTES
    except EncoderError as error:
        why = error.one_line()
    except (ImportError, OSError) as error:
        why = str(error)
    return in_floats(), f"{BY_FLOATS} ({why})"


def _graph_under(gguf: Path, adapter: Path) -> Path | None:
    """The graph under an adapter; None where there is none, and why in the encoder's log."""
    try:
        graph = graph_of_file(gguf, adapter)
    except (EncoderError, OSError) as error:
        graph = Graph(None, str(error))
    if graph.file is None:
        print(f"{adapter.name} is read in floats: {graph.why_not}", file=sys.stderr)
    return graph.file


def main() -> None:
    """Run as a child of `core.encoder.client`."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        serve(sys.stdin.buffer, out)
    except BrokenPipeError:  # the client went away: there is nobody to tell
        os._exit(0)


if __name__ == "__main__":
    main()
