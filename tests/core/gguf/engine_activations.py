"""What the engine's own layers are given, seen through its evaluation callback as llama.cpp's imatrix tool sees it."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.gguf.llama import llama_cpp

MATRIX_PRODUCT = b"MUL_MAT"


class _Tensor(ctypes.Structure):
    """ggml.h: struct ggml_tensor."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def engine_statistics(gguf: Path, sequences: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[np.float64]]:
    """Mean squared activation of each column of each weight matrix, over all tokens of the sequences."""
    base = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.so"))))
    base.ggml_op_name.restype = ctypes.c_char_p
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts: dict[str, int] = {}

    @llama_cpp.ggml_backend_sched_eval_callback
    def look(address: int, ask: bool, _user: int) -> bool:
        tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        if base.ggml_op_name(tensor.op) != MATRIX_PRODUCT:
            return not ask
        weight, given = tensor.src[0].contents, tensor.src[1].contents
        name = weight.name.decode()
        if not name.endswith(".weight"):
            return not ask
        if not ask:
            assert given.type == 0
            columns, rows = given.ne[0], given.ne[1] * given.ne[2] * given.ne[3]
            assert given.nb[1] == 4 * columns
            values = np.ctypeslib.as_array((ctypes.c_float * (rows * columns)).from_address(given.data))
            squares = np.square(values.reshape(rows, columns), dtype=np.float64).sum(0)
            sums[name] = sums.get(name, 0) + squares
            counts[name] = counts.get(name, 0) + rows
        return True

    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers, settings.use_extra_bufts = 0, False
    model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), settings)
    assert model
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = 1
    options.cb_eval = look
    context = llama_cpp.llama_init_from_model(model, options)
    try:
        for sequence in sequences:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            batch = llama_cpp.llama_batch_init(len(sequence), 0, 1)
            batch.n_tokens = len(sequence)
            for at, token in enumerate(sequence):
                batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, True
                batch.seq_id[at][0] = 0
            assert llama_cpp.llama_decode(context, batch) == 0
            llama_cpp.llama_batch_free(batch)
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    return {name: sums[name] / counts[name] for name in sums}
