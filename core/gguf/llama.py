"""The one door to llama_cpp: what must be set before its libraries are loaded is set here.

For worker and engine processes only; a fault in native code ends the process.
"""

from core.threads import wait_kindly

wait_kindly()

import llama_cpp  # noqa: E402 - reads the setting above
from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # noqa: E402

__all__ = ["Jinja2ChatFormatter", "llama_cpp"]
