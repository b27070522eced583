"""LoRA on a linear layer as one step of the graph, for training on plain float weights.

PEFT computes `W x + s * B(A(x))` as layers of their own: the product for all outputs is made, scaled and added in three
passes, and twice more on the way back. On a small model those passes over memory cost as much as half of the matrix
products. Here the product is added where the layer's result already lies, and its gradients are written down by hand
(the chain rule for Hu et al. 2021, arXiv:2106.09685; that this pays is an observation of Unsloth's). The adapter's own
matrix products, which are thin, are put in the order of operands that BLAS computes fastest.
"""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import nn
from torch.autograd.function import once_differentiable


class _LoraLinear(torch.autograd.Function):
    """x (…, in), frozen weight (out, in) and bias (out,) or None, a (r, in), b (out, r), scale -> (…, out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = nn.functional.linear(rows, weight, bias)
        low = rows @ a.t()
        out.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients for x, a and b."""
        rows, weight, a, b, low = ctx.saved_tensors
        outer = gradient.reshape(-1, gradient.shape[-1])
        of_low = outer @ (b * ctx.scale).t().contiguous().t()  # (rows, r)
        of_b = (low.t() @ outer).t() * ctx.scale
        of_a = of_low.t() @ rows
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (outer @ weight).addmm_(of_low, a).view(ctx.shape)
        return of_x, None, None, of_a, of_b, None


def fuse_lora(model: PeftModel, adapter: str = "default") -> int:
    """Let the layers of a freshly made LoRA model compute as above; how many do.

    A layer keeps PEFT's own way where it is no plain linear one, drops out inputs, or has weights of another type than
    its adapter; at run time also where the adapter is merged, switched off or joined by another.
    """
    return sum(_fuse(module, adapter) for module in model.modules() if type(module) is Linear)


def _fuse(layer: Any, name: str) -> bool:
    base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    plain = (
        type(base) is nn.Linear
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.use_dora.get(name)
        and not layer.fan_in_fan_out
        and a.bias is None
        and b.bias is None
        and not base.weight.requires_grad
        and base.weight.dtype == a.weight.dtype == b.weight.dtype
    )
    if not plain:
        return False
    theirs = layer.forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        usual = not (args or kwargs or layer.disable_adapters or layer.merged) and layer.active_adapters == [name]
        if not usual or x.dtype != a.weight.dtype or torch.is_autocast_enabled(x.device.type):
            result: torch.Tensor = theirs(x, *args, **kwargs)
            return result
        fused: torch.Tensor = _LoraLinear.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[name])
        return fused

    layer.forward = forward
    return True
