"""How large the files of a model will be once parts are taken out of it: `python -m core.gguf.cut_sizes SOURCE WISHES`
prints it as JSON. What `prune` will choose among is known before it runs, and of each the size.

Imports the engine: for worker processes only.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InvalidInput, TaraError
from core.fresh_process import answer
from core.gguf.engine_log import capture_log
from core.gguf.header import Header, TensorInfo, read_header
from core.gguf.hollow import smaller_size
from core.gguf.outline import f16_of
from core.training.fitting import Anatomy, Choice, choices_within, fewest, weights_of, widths

# Whose layers are known to be the same by the names of a GGUF file as by those of the folder that is cut.
KNOWN = ("llama", "qwen2", "phi3", "gpt2")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)$")
_CHANNELS = re.compile(r"ffn_(gate|up)\.(weight|bias)$|ffn_down\.weight$")


def cut_sizes(source: Path, wishes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each wish, `type` with `keep` or `target_bytes` as the job `prune` has them: `bytes`, the most that the file
    may have, of `layers` of `of_layers`, and `cuts`, how many there are to choose from; 0 where none fits, and `bytes`
    is then of the least that can stay. Or `cannot`, why nothing can be cut so.

    `source` is a folder with config.json, safetensors and tokenizer, or a GGUF model. Raises TaraError for what cannot
    be converted, with the converter's words.
    """
    with tempfile.TemporaryDirectory(prefix="tara-cuts-") as folder:
        f16 = f16_of(source, Path(folder))
        header = read_header(f16)
        if header.architecture not in KNOWN:
            return [{"cannot": f"its size is not known before it is built: {header.architecture}"} for _ in wishes]
        about = anatomy_of(header)

        @cache
        def size(choice: Choice, quantization: str) -> int:
            return smaller_size(f16, Path(folder) / "hollow.gguf", choice.layers, choice.width, quantization)

        return [_answer(about, wish, size) for wish in wishes]


def _answer(about: Anatomy, wish: Mapping[str, Any], size: Callable[[Choice, str], int]) -> dict[str, Any]:
    quantization, target, keep = str(wish["type"]), wish.get("target_bytes"), float(wish.get("keep") or 0.0)
    try:
        if target is not None:
            found = choices_within(about, lambda choice: size(choice, quantization) <= target)
        else:
            found = choices_within(about, lambda choice: weights_of(about, choice) <= keep * about.block_weights)
        if found and found[0] == Choice(about.layers, about.channels):
            return {"cannot": "nothing need be taken out of it for that size"}
        if not found and target is None:
            return {"cannot": f"nothing that can stay is as little as {keep:.0%} of its layers' weights"}
        tried = found or [Choice(fewest(about.layers), widths(about)[0][-1])]
        most = max(tried, key=lambda choice: size(choice, quantization))
        return {
            "bytes": size(most, quantization), "layers": max(choice.layers for choice in tried),
            "of_layers": about.layers, "cuts": len(found),
        }  # fmt: skip
    except TaraError as error:
        return {"cannot": error.message}


def anatomy_of(header: Header) -> Anatomy:
    """The layers and channels of a model by its F16 file, as `core.training.cut.anatomy` finds them in its folder."""
    layers: dict[int, list[tuple[str, TensorInfo]]] = {}
    for tensor in header.tensors:
        found = _BLOCK.match(tensor.name)
        if found:
            layers.setdefault(int(found[1]), []).append((found[2], tensor))
    if not layers:
        raise InvalidInput(f"the layers of {header.architecture} are not found by its tensors' names")
    inner = {shape[0] for tensors in layers.values() for name, one in tensors if name == "ffn_down.weight"
             for shape in [one.shape]}  # fmt: skip
    weights = {
        sum(one.elements for name, one in tensors if _CHANNELS.match(name)) // max(inner, default=1)
        for tensors in layers.values()
    }
    cuttable = len(inner) == len(weights) == 1
    return Anatomy(
        len(layers),
        max(inner, default=0),
        cuttable,
        sum(one.elements for tensors in layers.values() for _, one in tensors),
        weights.pop() if cuttable else 0,
    )


def _told(source: str, wishes: str) -> dict[str, Any]:
    capture_log()
    return {"sizes": cut_sizes(Path(source), json.loads(wishes))}


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], "python -m core.gguf.cut_sizes SOURCE WISHES", _told))
