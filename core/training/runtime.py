"""Settings of the model libraries in a worker process, and their versions for provenance."""

import functools
import os
import sys
import warnings
from importlib.metadata import version
from typing import Any

import psutil

LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def prepare(threads: int | None, seed: int = 0) -> None:
    """Set threads and seeds, keep the libraries from drawing bars into the log and from asking the network."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # peft asks transformers a question whose name will change; nothing a reader of the log could act on.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a trained adapter."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in LIBRARIES}}


def rss_mb() -> float:
    """Memory of this process that is resident now, in MB (10^6 bytes)."""
    return round(float(psutil.Process().memory_info().rss) / 1e6, 1)


def best_device() -> Any:
    """The CUDA device where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
