"""What a GGUF file is, read from its own header: nothing is taken from its name or from who made it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.gguf.header import BLOCKS, TensorInfo, read_header
from core.gguf.metadata import COMPRESSION

# llama.cpp's llama_ftype: the number in general.file_type -> the mix's name.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
UNKNOWN_FILE_TYPE = "unknown"
HYBRID = "hybrid"  # a type per tensor, solved for
_OTHER_KINDS = ("adapter", "imatrix")


@dataclass(frozen=True)
class GgufInfo:
    """A GGUF file, model or adapter, as its header describes it.

    `kind` is `model`, `adapter` or `imatrix`. `file_type` is the mix its maker names (`Q4_K_M`, `F16`; `unknown` where
    the file says nothing; `hybrid` where TARA chose a type for each tensor, whatever llama.cpp's number for most of its
    weights is), `types` counts tensors by the type they really have. `bytes` is the file's size,
    `bits_per_weight` the tensors' bits over `parameters`. `fallback_tensors` counts the weight matrices, of
    `weight_tensors`, that the named mix could not hold because of their row length, see `falls_back`. `metadata` has
    the scalar keys. Text in it comes from the file and is not cleaned.
    """

    path: Path
    kind: str
    architecture: str
    file_type: str
    types: dict[str, int]
    bytes: int
    parameters: int
    bits_per_weight: float
    fallback_tensors: int
    weight_tensors: int
    metadata: dict[str, Any]
    chat_template: str | None
    tensors: tuple[TensorInfo, ...]
    alignment: int


def inspect_gguf(path: Path) -> GgufInfo:
    """Read a GGUF file's header. Raises InvalidInput with the reason when it is not a whole GGUF file."""
    header = read_header(path)
    metadata = header.metadata
    parameters = sum(tensor.elements for tensor in header.tensors)
    tensor_bytes = sum(tensor.bytes for tensor in header.tensors)
    file_type = FILE_TYPES.get(metadata.get("general.file_type", -1), UNKNOWN_FILE_TYPE)
    if metadata.get(COMPRESSION) == HYBRID:
        file_type = HYBRID
    template = metadata.get("tokenizer.chat_template")
    return GgufInfo(
        path=path,
        kind=str(metadata["general.type"]) if metadata.get("general.type") in _OTHER_KINDS else "model",
        architecture=header.architecture,
        file_type=file_type,
        types=dict(Counter(tensor.type for tensor in header.tensors).most_common()),
        bytes=path.stat().st_size,
        parameters=parameters,
        bits_per_weight=8 * tensor_bytes / parameters if parameters else 0.0,
        fallback_tensors=sum(falls_back(tensor, file_type) for tensor in header.tensors),
        weight_tensors=sum(is_weight_matrix(tensor) for tensor in header.tensors),
        metadata=metadata,
        chat_template=template if isinstance(template, str) else None,
        tensors=tuple(header.tensors),
        alignment=header.alignment,
    )


def is_weight_matrix(tensor: TensorInfo) -> bool:
    """Whether a tensor is one of those quantization is about: a matrix named `….weight`."""
    return len(tensor.shape) >= 2 and tensor.name.endswith(".weight")


def falls_back(tensor: TensorInfo, file_type: str) -> bool:
    """Whether a tensor of a file of this type is stored in a substitute because of its row length.

    The K and IQ types pack rows in blocks of 256 weights, Q4_0, Q5_0, Q8_0 and the like in blocks of 32. A row that
    is no multiple of the block cannot be stored so, and llama.cpp takes a type of smaller blocks instead
    (tensor_type_fallback in llama-quant.cpp: Q2_K and Q3_K become Q4_0, Q4_K Q5_0, Q5_K Q5_1, Q6_K Q8_0, and F16
    where not even 32 divides the row), so the file is larger than its name promises. A shared embedding that is
    Q8_0 where the mix means Q6_K is counted too; the engine's own count leaves it out.
    """
    block = mix_block(file_type)
    if not is_weight_matrix(tensor) or block == 1 or tensor.shape[0] % block == 0:
        return False
    if BLOCKS[tensor.type][0] > 1:
        return True
    # A plain type is a substitute only where 32-blocks do not fit either; else the mix keeps this tensor plain.
    return tensor.type == "F16" and tensor.shape[0] % 32 != 0


def mix_block(file_type: str) -> int:
    """Weights in a block of the type a mix is named after: 256 for `Q4_K_M`, 32 for `Q8_0`, 1 for plain types."""
    if file_type in BLOCKS:
        return BLOCKS[file_type][0]
    if "_K" in file_type or file_type.startswith("IQ"):
        return 256
    return 32 if file_type.startswith("MXFP4") else 1
