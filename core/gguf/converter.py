"""Running one of llama.cpp's conversion scripts as a child, its words in our log and its progress in our hands."""

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from core.errors import TaraError
from core.gguf.by_blocks import KEYS_VARIABLE
from core.gguf.toolchain import CONVERT_MODEL, converters_folder

_PROGRESS = re.compile(rb"^Writing: +(\d+)%")
_LINE_END = re.compile(rb"[\r\n]")
_KEPT_LINES = 3
_OURS = Path(__file__).parents[2]  # where the child finds this package
_BY_BLOCKS = {CONVERT_MODEL: ["-P", "-m", "core.gguf.by_blocks"]}  # -P: no module is taken from where the job runs


def run_converter(
    script: str,
    arguments: list[str],
    *,
    on_percent: Callable[[int], None] | None = None,
    through: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Run `script` of the engine's toolchain with this interpreter and wait for it.

    Its lines are printed as they come; the writing bar's percentage goes to `on_percent`. The child stays in this
    process's group, so what ends the job ends it too, and it is stopped when this block is left by an error. Raises
    TaraError with the script's last words when it fails, EnvironmentLacks when it is not installed. Models are
    converted with the writing of `core.gguf.by_blocks`, or of the module `through`; the former puts `keys` into the
    file's header as strings.
    """
    folder = converters_folder()
    paths = [str(folder / "gguf-py"), str(folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(_OURS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environment[KEYS_VARIABLE] = json.dumps(dict(keys or {}))
    changed = _BY_BLOCKS.get(script, []) if through is None else ["-P", "-m", through]
    command = [sys.executable, "-u", *changed, str(folder / script), *arguments]
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        try:
            for line in _lines(child.stdout):
                bar = _PROGRESS.match(line)
                if bar is None:
                    text = line.decode("utf-8", "replace").rstrip()
                    if text:
                        last.append(text)
                        print(text, flush=True)
                elif on_percent is not None:
                    on_percent(int(bar[1]))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise TaraError(f"{script} failed with exit status {child.returncode}: {' / '.join(last)}", "see the log")


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines ended by a line break or, as progress bars are, by a carriage return."""
    rest = b""
    while block := os.read(stream.fileno(), 1 << 16):
        *lines, rest = _LINE_END.split(rest + block)
        yield from lines
    if rest:
        yield rest
