"""The one door to llama_cpp: what must be set before its libraries are loaded is set here.

For worker and engine processes only; a fault in native code ends the process.
"""

import os

# Between the parts of every layer the engine's threads wait for each other. By default they wait spinning, so where
# another process wants the same cores, each wait lasts until the scheduler takes the spinner off: generation at 2
# threads beside a training run fell from 50 tokens/s to 2.5. Threads that never spin are as bad when alone (9 tokens/s
# against 63), so they spin shortly, then sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

__all__ = ["Jinja2ChatFormatter", "llama_cpp"]
