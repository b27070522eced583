"""A BERT encoder as an ONNX graph that multiplies bytes: weights in 8 bits a column, activations in 8 bits a token.

The graph takes a text's embedded tokens [n, d] float32 and gives the mean over the tokens of its last layer, [d]. Each
token's row is scaled to 0..255 between its own smallest and largest value, exact zero is not needed: with x ≈ s q + m,
x W = s (q W) + m (the columns' sums of W), both after the integer product (Jacob et al., arXiv:1712.05877, section 2.3,
for a zero point for each row). Behind the norms the channels are made even before (`channels`). The vectors of
all-MiniLM-L6-v2 have a cosine to those of the same weights in floats of 0.9994 then, without the evening of 0.9989, and
with one scale for a whole text, as the usual dynamic quantization has it, of 0.990 (development messages).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

from core.encoder.channels import divisors
from core.encoder.graph_parts import INPUT, OUTPUT, Shape
from core.encoder.reading import Floats
from core.errors import InvalidInput
from core.gguf.header import Header
from core.gguf.weights import Weights

_LAST = np.array([-1], np.int64)
_FIRST = np.array([0], np.int64)
_MICROSOFT = "com.microsoft"  # operators of onnxruntime
# Of the standard's operators and of the file: what onnxruntime 1.32 and those before it read.
_OPERATORS, _FILE = 21, 10


def graph_of(weights: Mapping[str, Floats], shape: Shape, reached: Mapping[str, Floats]) -> bytes:
    """The graph's file. `weights` by llama.cpp's names, matrices [out, in]; `reached` is from `channels.reached`."""
    builder = _Builder(weights, shape, reached)
    x = builder.norm(INPUT, "token_embd_norm")
    for layer in range(shape.layers):
        x = builder.layer(x, f"blk.{layer}.")
    builder.last(x)
    size = len(weights["token_embd_norm.weight"])
    graph = helper.make_graph(
        builder.nodes,
        "encoder",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [size])],
        builder.constants,
    )
    operators = [helper.make_opsetid("", _OPERATORS), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=_FILE, producer_name="tara")
    checker.check_model(model)
    return bytes(model.SerializeToString())


def read_weights(gguf: Path, adapter: Path | None) -> tuple[dict[str, Floats], Shape]:
    """What `graph_of` takes from an encoder's GGUF file, a LoRA adapter of it added where one is named.

    Raises InvalidInput for what is no such file.
    """
    weights, header = _tensors(gguf)
    if adapter is not None:
        low, about = _tensors(adapter)
        for name in [one.removesuffix(".lora_a") for one in low if one.endswith(".lora_a")]:
            down, up = low[f"{name}.lora_a"], low[f"{name}.lora_b"]
            if name == "token_embd.weight" or name not in weights or weights[name].shape != (len(up), down.shape[1]):
                raise InvalidInput(f"{adapter.name} is no adapter of {gguf.name}", "name another file")
            alpha = float(about.metadata["adapter.lora.alpha"])
            weights[name] = weights[name] + (alpha / len(down) if alpha else 1.0) * (up @ down)  # as llama.cpp has it
    values, kind = header.metadata, header.architecture
    return weights, Shape(
        int(values[f"{kind}.block_count"]),
        int(values[f"{kind}.attention.head_count"]),
        float(values[f"{kind}.attention.layer_norm_epsilon"]),
    )


def _tensors(path: Path) -> tuple[dict[str, Floats], Header]:
    read = Weights(path, rounded=True)
    found = {}
    for name, tensor in read.tensors.items():
        rows = read.whole(tensor)
        found[name] = np.array(rows[0] if len(tensor.shape) == 1 else rows, np.float32)
    return found, read.header


class _Builder:
    def __init__(self, weights: Mapping[str, Floats], shape: Shape, reached: Mapping[str, Floats]) -> None:
        self._weights, self._shape, self._reached = weights, shape, reached
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._named: set[str] = set()

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self._named:
            self._named.add(name)
            self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", output: str | None = None, **settings: Any) -> str:
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **settings))
        return name

    def norm(self, x: str, name: str) -> str:
        weight, bias = (self.constant(f"{name}.{kind}", self._weights[f"{name}.{kind}"]) for kind in ("weight", "bias"))
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=self._shape.epsilon)

    def layer(self, x: str, name: str) -> str:
        heads = self._shape.heads
        of = self._weights
        size = len(of["token_embd_norm.weight"])
        parts = [name + part for part in ("attn_q", "attn_k", "attn_v")]
        weight = np.concatenate([of[f"{part}.weight"] for part in parts])
        bias = np.concatenate([of[f"{part}.bias"] for part in parts])
        weight[:size] *= (size // heads) ** -0.5  # the queries, so that their products need not be
        bias[:size] *= (size // heads) ** -0.5
        split = self.constant("split", np.array([0, 3, heads, size // heads], np.int64))
        y = self.node("Reshape", self.evened(x, f"{name}attn", weight, bias), split)
        y = self.node("Transpose", y, perm=[1, 2, 0, 3])  # q, k and v, then heads, tokens, channels
        query, key, value = (
            self.node("Gather", y, self.constant(f"part{at}", np.array(at, np.int64)), axis=0) for at in range(3)
        )
        likeness = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 2, 1]))
        y = self.node("MatMul", self.node("Softmax", likeness, axis=-1), value)
        y = self.node("Transpose", y, perm=[1, 0, 2])
        y = self.node("Reshape", y, self.constant("joined", np.array([0, size], np.int64)))
        x = self.norm(self.node("Add", self.plain(y, f"{name}attn_output"), x), f"{name}attn_output_norm")
        up = self._weights[f"{name}ffn_up.weight"], self._weights[f"{name}ffn_up.bias"]
        y = self.node("Gelu", self.evened(x, f"{name}ffn", *up))
        return self.norm(self.node("Add", self.plain(y, f"{name}ffn_down"), x), f"{name}layer_output_norm")

    def evened(self, x: str, name: str, weight: Floats, bias: Floats) -> str:
        """The product of what is behind a norm, whose channels differ much, with a weight."""
        by = divisors(self._reached[name], weight)
        even = self.node("Mul", x, self.constant(f"{name}.even", 1 / by))
        return self.linear(self.bytes_of(even), name, weight * by, bias)

    def plain(self, x: str, name: str) -> str:
        return self.linear(self.bytes_of(x), name, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def bytes_of(self, x: str) -> tuple[str, str, str]:
        """The rows as bytes [n, columns], their scales [n, 1] and what their zeros stand for [n, 1]."""
        last = self.constant("last", _LAST)
        least, most = (self.node(kind, x, last, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
        step = self.constant("step", np.array(1 / 255, np.float32))
        scale = self.node("Mul", self.node("Sub", most, least), step)
        rows = self.node("QuantizeLinear", self.node("Sub", x, least), self.node("Squeeze", scale, last), axis=0)
        return rows, scale, least

    def linear(self, x: tuple[str, str, str], name: str, weight: Floats, bias: Floats) -> str:
        rows, scale, least = x
        steps = np.maximum(np.abs(weight).max(axis=1) / 127, np.finfo(np.float32).tiny)  # of each output
        whole = np.rint(weight / steps[:, None]).astype(np.int8).T
        y = self.node(
            "MatMulIntegerToFloat",
            rows,
            self.constant(f"{name}.weight", whole),
            self.constant("one", np.array(1, np.float32)),
            self.constant(f"{name}.steps", steps.astype(np.float32)),
            domain=_MICROSOFT,
        )
        sums = self.constant(f"{name}.sums", (whole.sum(axis=0, dtype=np.float32) * steps).astype(np.float32)[None])
        shift = self.node("Gemm", least, sums, self.constant(f"{name}.bias", bias))
        return self.node("Add", self.node("Mul", y, scale), shift)

    def last(self, x: str) -> None:
        self.node("ReduceMean", x, self.constant("first", _FIRST), keepdims=0, output=OUTPUT)
