"""An encoder's file as a graph that multiplies bytes: whether there can be one, and where it is.

Making one takes some seconds and 300 MB, so a process of its own does it, once for a file (`core.encoder.make_graph`).
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import core
from core.catalog.hashes import remembered_sha256
from core.encoder.graph_parts import BESIDE, PER_LAYER, names_of
from core.encoder.place import FLOATS_VARIABLE, places
from core.encoder.protocol import EncoderError
from core.errors import InvalidInput
from core.gguf.header import Header, read_header
from core.gguf.inspect import inspect_gguf

FORM = 2  # of the graph: another number, another file
FLOATS = "floats"
BY_BYTES, BY_FLOATS = "onnxruntime, in bytes", "llama.cpp, in floats"  # how a file is read
_ARCHITECTURE = "bert"
_MEAN = (None, 0, 1)  # llama.cpp's number for the mean over the tokens; without one that is taken as well
_PROCESSOR = Path("/proc/cpuinfo")
# Instructions that add up products of bytes in 32 bits; older ones do it in 16, which overflow.
_EXACT = re.compile(r"^flags\s*:.*\b(avx512_vnni|avx_vnni)\b", re.MULTILINE)


@dataclass(frozen=True)
class Graph:
    """The file of a graph, or why there is none and llama.cpp reads."""

    file: Path | None
    why_not: str = ""


def graph_of_file(gguf: Path, adapter: Path | None = None) -> Graph:
    """The graph of an encoder's file, under a GGUF adapter where one is named; made now if it never was.

    Raises InvalidInput for what is no GGUF, EncoderError with the last words of a making that failed.
    """
    if (known := known_graph(gguf, adapter)) is not None:
        return known
    files = [str(one.resolve()) for one in (gguf, adapter) if one is not None]
    done = subprocess.run(
        [sys.executable, "-m", "core.encoder.make_graph", *files],
        cwd=Path(core.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    made = known_graph(gguf, adapter)
    if made is None:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EncoderError(f"no graph could be made of {gguf.name}: {last or f'exit code {done.returncode}'}")
    return made


def known_graph(gguf: Path, adapter: Path | None = None) -> Graph | None:
    """As `graph_of_file`; None where one can be made and was not yet."""
    if os.environ.get(FLOATS_VARIABLE):
        return Graph(None, f"{FLOATS_VARIABLE} is set")
    if not processor_suits():
        return Graph(None, "this processor has no instructions for sums of products of bytes")
    if why := _unfit(read_header(gguf)):
        return Graph(None, why)
    if adapter is not None:
        check_adapter(adapter)
    for path in graph_places(gguf, adapter):
        if os.path.isfile(path):  # it got its name by a rename when it was whole; False where it may not be looked for
            return Graph(path)
        refused = refusal_of(path)
        if os.path.isfile(refused):
            return Graph(None, refused.read_text("utf-8").strip())
    return None


def read_by(gguf: Path) -> str:
    """By what an encoder's file is read, and why not by bytes where it is not; makes nothing. Raises InvalidInput for
    no GGUF."""
    graph = known_graph(gguf)
    if graph is None:
        return f"{BY_BYTES} (what it reads is made at its first start)"
    return BY_BYTES if graph.file is not None else f"{BY_FLOATS} ({graph.why_not})"


def check_adapter(path: Path) -> None:
    """Raises InvalidInput for what is no GGUF file of an adapter."""
    info = inspect_gguf(path)
    if info.kind != "adapter":
        raise InvalidInput(f"{path} is a GGUF file of kind {info.kind}, not an adapter", "name another file")


def graph_places(gguf: Path, adapter: Path | None) -> list[Path]:
    """Where a graph may be, called by its form and by the contents that it is made of: beside an encoder that set-up
    installed, and in the user's cache."""
    hashes = remembered_sha256([gguf] if adapter is None else [gguf, adapter])
    name = "-".join(["encoder", *(one[:16] for one in hashes)]) + f".bytes-{FORM}.onnx"
    installed, cached = places(name)
    return [installed, cached] if gguf.resolve().parent == installed.parent.resolve() else [cached]


def kept_by(gguf: Path) -> str:
    """How a file is read, as a word for the names of files that keep what was read: FLOATS, or bytes of which form.
    Raises InvalidInput for no GGUF."""
    graph = known_graph(gguf)
    return f"bytes-{FORM}" if graph is None or graph.file is not None else FLOATS


def older_forms(graph: Path) -> list[Path]:
    """What an older program made in place of a graph and beside it: graphs, and why there was none."""
    stem, _, _ = graph.name.partition(".")
    found = ((path, re.fullmatch(r"\.bytes-(\d+)", Path(path.stem).suffix)) for path in graph.parent.glob(f"{stem}.*"))
    return [path for path, form in found if form and int(form[1]) < FORM]


def refusal_of(graph: Path) -> Path:
    """Where it is written why a graph was made and not kept."""
    return graph.with_suffix(".unlike")


def processor_suits() -> bool:
    """Whether this processor adds up products of bytes exactly; False where nothing says so."""
    try:
        return bool(_EXACT.search(_PROCESSOR.read_text("utf-8", "replace")))
    except OSError:
        return False


def _unfit(header: Header) -> str:
    """Why there can be no graph of a file; empty where there can."""
    kind, values = header.architecture, header.metadata
    if kind != _ARCHITECTURE:
        return f"its architecture is {kind}, not {_ARCHITECTURE}"
    if values.get(f"{kind}.pooling_type") not in _MEAN:
        return "its vector is not the mean over its tokens"
    layers = values.get(f"{kind}.block_count")
    fits = (
        isinstance(layers, int)
        and len(header.tensors) == PER_LAYER * layers + BESIDE
        and {tensor.name for tensor in header.tensors} == names_of(layers)
    )
    if not fits:
        return f"it has other tensors than a plain {_ARCHITECTURE}"
    return ""
