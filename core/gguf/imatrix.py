"""Importance matrices: how strongly each input column of a weight matrix is used, for quantization to spare those.

The statistic is the mean of the squared activations a layer is given, a number a column: llama.cpp's imatrix
(ggml-org/llama.cpp, tools/imatrix) and Wanda's scaler (arXiv:2306.11695). Files are in llama.cpp's own GGUF format, so
its tools read ours and we read theirs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFWriter

from core.errors import InvalidInput
from core.gguf.header import TensorInfo

KIND = "imatrix"
DATASETS, CHUNKS, CHUNK_TOKENS = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Statistic:
    """What one weight matrix was given: `sums` [columns] of squared activations, float32, over `count` tokens."""

    sums: npt.NDArray[np.float32]
    count: int

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """Mean squared activation of each column, [columns]."""
        return (self.sums / np.float32(self.count)).astype(np.float32)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Statistics by the name of the GGUF tensor, and the texts they come from: names, how many sequences, and the
    most tokens one of them had."""

    statistics: dict[str, Statistic]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_tokens: int = 0

    def check(self, tensors: tuple[TensorInfo, ...]) -> None:
        """Raises InvalidInput where a statistic belongs to no tensor of these, or to one with other columns."""
        columns = {tensor.name: tensor.shape[0] for tensor in tensors}
        for name, statistic in self.statistics.items():
            if name not in columns:
                raise InvalidInput(f"the importance matrix tells of {name}, which the model lacks", "make it again")
            if len(statistic.sums) != columns[name]:
                raise InvalidInput(
                    f"the importance matrix has {len(statistic.sums)} columns for {name}, the model {columns[name]}",
                    "make it again for this base",
                )


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write a new file in llama.cpp's format."""
    writer = GGUFWriter(path, arch=KIND)
    writer.add_type(KIND)
    writer.add_array(DATASETS, list(matrix.datasets))
    writer.add_uint32(CHUNKS, matrix.chunks)
    writer.add_uint32(CHUNK_TOKENS, matrix.chunk_tokens)
    for name, statistic in sorted(matrix.statistics.items()):
        writer.add_tensor(name + _SUMS, statistic.sums.astype(np.float32).reshape(1, -1))
        writer.add_tensor(name + _COUNTS, np.array([[statistic.count]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a file of ours or llama.cpp's. Raises InvalidInput where it is none, or holds what is no statistic."""
    try:
        reader = GGUFReader(path)
        tensors = {tensor.name: np.array(tensor.data, dtype=np.float32).reshape(-1) for tensor in reader.tensors}
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InvalidInput(f"{path} is not a readable importance matrix: {error}", "make it again") from error
    if fields.get("general.type") != KIND:
        raise InvalidInput(f"{path} is not an importance matrix", "make it again")
    statistics: dict[str, Statistic] = {}
    for name, sums in tensors.items():
        if not name.endswith(_SUMS):
            continue
        owner = name.removesuffix(_SUMS)
        counts = tensors.get(owner + _COUNTS)
        if counts is None or len(counts) != 1 or counts[0] < 1 or not np.isfinite(sums).all() or (sums < 0).any():
            raise InvalidInput(f"{path} has no usable statistic of {owner}", "make it again")
        statistics[owner] = Statistic(sums, int(counts[0]))
    if not statistics:
        raise InvalidInput(f"{path} holds no statistics", "make it again")
    return ImportanceMatrix(
        statistics,
        tuple(map(str, fields.get(DATASETS) or ())),
        int(fields.get(CHUNKS) or 0),
        int(fields.get(CHUNK_TOKENS) or 0),
    )
