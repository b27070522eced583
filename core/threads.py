"""How a process's OpenMP threads wait for each other. To be said before torch or llama_cpp is loaded: read once."""

import os

# OpenMP threads wait at a barrier by spinning. Where another process wants the same cores, each wait lasts until the
# scheduler takes the spinner off: on two cores beside one busy process training fell from 173 tokens/s to under 20 and
# generation from 50 to 2.5. Threads that never spin are as bad when alone (generation: 9 tokens/s against 63). So they
# spin shortly, then sleep: training 153 tokens/s alone, 70 beside a busy process.
SPIN_COUNT = "10000"


def wait_kindly() -> None:
    """Let the threads of this process spin shortly, then sleep; a value that a person set stays."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
