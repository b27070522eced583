"""llama.cpp's model converter, writing everything but the weights: a hole is where they would be.

A program for the child process, with the toolchain on its path: python -m core.gguf.header_only SCRIPT ARGUMENTS...
"""

import importlib
import runpy
import sys
from typing import Any


def main(arguments: list[str]) -> None:
    """Run the converter script with the changed writing. Raises AttributeError where the toolchain lacks what is
    changed: this belongs to the version that the project pins."""
    leave_weights_out()
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def leave_weights_out() -> None:
    """Change the writer of the toolchain in this process: the converter's tensors are lazy, so none is ever read."""
    module: Any = importlib.import_module("gguf.gguf_writer")
    writer = module.GGUFWriter

    def write_tensors_to_file(self: Any, *, progress: bool = False) -> None:
        self.write_ti_data_to_file()
        for out, tensors in zip(self.fout, self.tensors, strict=True):
            self.write_padding(out, out.tell())
            size = sum(writer.ggml_pad(tensor.nbytes, self.data_alignment) for tensor in tensors.values())
            out.truncate(out.tell() + size)
        self.state = module.WriterState.WEIGHTS

    writer.write_tensors_to_file = write_tensors_to_file


if __name__ == "__main__":
    main(sys.argv[1:])
