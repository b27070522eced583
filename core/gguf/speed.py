"""How fast a GGUF model loads, reads and writes, and how much memory that takes: measured in a process of its own.

`python -m core.gguf.speed FILE THREADS` prints one line of JSON. It imports llama_cpp and nothing else that
is large, so its peak is that of running the model.
"""

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import TaraError
from core.fresh_process import Failed, answer_of

PROMPT_TOKENS = 256
GENERATED_TOKENS = 32
RUNS = 3
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Speed:
    """`load_s`: seconds until the model can be asked. Rates in tokens a second, the middle one of `runs` after a first
    that is not counted. `peak_rss_bytes`: VmHWM of the process, mapped pages of the file included."""

    load_s: float
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    peak_rss_bytes: int
    prompt_tokens: int
    generated_tokens: int
    runs: int
    context: int
    threads: int


def measure_speed(gguf: Path, *, threads: int) -> Speed:
    """Measure a model in a fresh process. Raises TaraError with its last words where it fails."""
    try:
        return Speed(**answer_of("core.gguf.speed", str(gguf.resolve()), str(threads)))
    except Failed as error:
        raise TaraError(f"{gguf.name} could not be run: {error}", "see the log") from error


def _measure(gguf: Path, threads: int) -> Speed:
    from core.gguf.runtime import Runtime

    with Runtime(gguf, n_ctx=CONTEXT_TOKENS, threads=threads) as runtime:
        generated = min(GENERATED_TOKENS, runtime.context_length // 4)
        read = min(PROMPT_TOKENS, runtime.context_length - generated)
        # Which tokens does not matter for the time; different ones, so that nothing is taken from a cache.
        prompt = [(7919 * at) % runtime.vocabulary_size for at in range(1, read + 1)]
        reading: list[float] = []
        writing: list[float] = []
        for _ in range(RUNS + 1):
            runtime.forget()
            started = time.monotonic()
            runtime.extend(prompt)
            middle = time.monotonic()
            for token in prompt[:generated]:
                runtime.extend([token])
            reading.append(read / (middle - started))
            writing.append(generated / (time.monotonic() - middle))
        return Speed(
            load_s=runtime.load_s,
            prompt_tokens_per_s=statistics.median(reading[1:]),
            generation_tokens_per_s=statistics.median(writing[1:]),
            peak_rss_bytes=_peak(),
            prompt_tokens=read,
            generated_tokens=generated,
            runs=RUNS,
            context=runtime.context_length,
            threads=threads,
        )


def _peak() -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise TaraError("/proc/self/status has no VmHWM", "measure on Linux")


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1]), int(sys.argv[2])))))
