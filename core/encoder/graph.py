"""A BERT encoder as an ONNX graph that multiplies bytes: weights in 8 bits a column, activations in 8 bits.

The graph takes a text's embedded tokens [n, d] float32 and gives the mean over the tokens of its last layer, [d].
What reaches the weights is made bytes in two ways (Jacob et al., arXiv:1712.05877, section 2.3). Behind a norm and
behind the attention all tokens reach about as far, so one scale and zero point, from some texts, is for all of them;
the channels behind a norm are made even before (`channels`). Behind the activation a few tokens reach ten times as far
as the others, so each token's row has its own scale, from the least that the activation can give: with x ≈ s q + m,
x W = s (q W) + m (the columns' sums of W), both after the integer product.

The vectors of all-MiniLM-L6-v2 have a cosine to those of the same weights in floats of 0.9991 (development messages);
0.9994 with a scale for each row everywhere, which takes a sixth longer, 0.998 with one for all everywhere, and 0.990
with one for each text, as the usual dynamic quantization has it.
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
_LEAST_OF_GELU = -0.17
_BEYOND = 1.05  # times as far as the texts reached that were read, one scale reaches; what is beyond is cut
_TINY = float(np.finfo(np.float32).tiny)
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
        last = f"{name}attn_output"
        y = self.of_all(y, last, self._reached[last], *self.weight_and_bias(last))
        x = self.norm(self.node("Add", y, x), f"{last}_norm")
        y = self.node("Gelu", self.evened(x, f"{name}ffn", *self.weight_and_bias(f"{name}ffn_up")))
        y = self.of_each(y, f"{name}ffn_down", _LEAST_OF_GELU, *self.weight_and_bias(f"{name}ffn_down"))
        return self.norm(self.node("Add", y, x), f"{name}layer_output_norm")

    def weight_and_bias(self, name: str) -> tuple[Floats, Floats]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]

    def evened(self, x: str, name: str, weight: Floats, bias: Floats) -> str:
        """The product of what is behind a norm, whose channels differ much, with a weight."""
        by = divisors(self._reached[name], weight)
        even = self.node("Mul", x, self.constant(f"{name}.even", 1 / by))
        return self.of_all(even, name, self._reached[name] / by, weight * by, bias)

    def of_all(self, x: str, name: str, reached: Floats, weight: Floats, bias: Floats) -> str:
        """The product with a weight of what is made bytes with one scale for all rows, which reaches so far."""
        least, most = _BEYOND * min(0.0, float(reached[0].min())), _BEYOND * max(0.0, float(reached[1].max()))
        size = max(most - least, 255 * _TINY)
        scale = self.constant(f"{name}.scale", np.array(size / 255, np.float32))
        zero = self.constant(f"{name}.zero", np.array(round(-least / size * 255), np.uint8))
        rows = self.node("QuantizeLinear", x, scale, zero)
        weights, steps, added = self.stored(name, *_in_bytes(weight), bias)
        return self.node("MatMulIntegerToFloat", rows, weights, scale, steps, zero, "", added, domain=_MICROSOFT)

    def of_each(self, x: str, name: str, least: float, weight: Floats, bias: Floats) -> str:
        """The product with a weight of what is made bytes with a scale for each row; nothing is below `least`."""
        last, zero = self.constant("last", _LAST), self.constant(f"least{least}", np.array(least, np.float32))
        step = self.constant("step", np.array(1 / 255, np.float32))
        scale = self.node("Mul", self.node("Sub", self.node("ReduceMax", x, last, keepdims=1), zero), step)
        rows = self.node("QuantizeLinear", self.node("Sub", x, zero), self.node("Squeeze", scale, last), axis=0)
        whole, by = _in_bytes(weight)
        sums = np.float32(least) * whole.sum(axis=0, dtype=np.float32) * by
        weights, steps, added = self.stored(name, whole, by, bias + sums)
        one = self.constant("one", np.array(1, np.float32))
        y = self.node("MatMulIntegerToFloat", rows, weights, one, steps, domain=_MICROSOFT)
        return self.node("Add", self.node("Mul", y, scale), added)

    def stored(self, name: str, whole: npt.NDArray[np.int8], steps: Floats, bias: Floats) -> tuple[str, str, str]:
        """A weight in bytes, its outputs' steps and a bias as constants."""
        return (
            self.constant(f"{name}.weight", whole),
            self.constant(f"{name}.steps", steps),
            self.constant(f"{name}.bias", bias),
        )

    def last(self, x: str) -> None:
        self.node("ReduceMean", x, self.constant("first", _FIRST), keepdims=0, output=OUTPUT)


def _in_bytes(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """A weight [out, in] as whole numbers [in, out], and the step of each output."""
    steps = np.maximum(np.abs(weight).max(axis=1) / 127, _TINY).astype(np.float32)
    return np.rint(weight / steps[:, None]).astype(np.int8).T, steps
