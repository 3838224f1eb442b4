"""The update of a LoRA for one weight [out, in, *kernel]: the arithmetic of each variant, in float32; r is the rank.

LoRA    (Hu et al. 2021)        up [out, r] @ down [r, in]; of a convolution up [out, r, 1, 1], down [r, in, *kernel]
LoCon   (Yeh et al. 2023)       LoRA, with a convolution [r, r, *kernel], `mid`, between two of 1x1
LoHa    (Hyeon-Woo et al. 2021) (w1_a @ w1_b) * (w2_a @ w2_b), elementwise
LoKr    (Yeh et al. 2023)       kron(w1, w2), each whole or a product of two
DoRA    (Liu et al. 2024)       m (W + delta) / |W + delta|, one norm for each output

`runtime/lora/factors.py` keeps these as two factors, for slots. Merging does not use these factors: their product
rounds differently, and a Kronecker product of two full matrices would need a matrix product as large as the weight.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.runtime.lora.file import AlphaScale, has_kronecker
from fewstep.runtime.lora.shapes import fits_weight

Tensors = Mapping[str, Tensor]  # by the names of `keys.py`, in float32


def compute_update(parts: Tensors, scale: AlphaScale) -> Tensor:
    """Return the update of the weight, [out, ...] with the number of dimensions that its factors imply, without
    magnitudes.

    Raises ValueError or RuntimeError if the factors do not fit each other.
    """
    if "diff" in parts:
        return parts["diff"]
    if "hada_w1_a" in parts:
        first, second = (_hadamard_factor(parts, side) for side in "12")
        return scale.update_factor(parts["hada_w1_b"].shape[0], parts.get("alpha")) * first * second
    if has_kronecker(parts):
        (first, one), (second, two) = (_kronecker_factor(parts, side) for side in "12")
        factor = scale.update_factor(one or two, parts.get("alpha"))
        first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
        return factor * torch.kron(
            first.contiguous(), second.contiguous()
        )  # kron needs views, which other layouts may not allow
    up, down = parts["up"], parts["down"]
    factor = scale.update_factor(down.shape[0], parts.get("alpha"))
    if "mid" in parts:
        return factor * torch.einsum("op,pq...,qi->oi...", up.flatten(1), parts["mid"], down.flatten(1))
    return factor * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def apply_update(weight: Tensor, parts: Tensors, scale: AlphaScale, strength: float) -> Tensor:
    """Return the weight moved by `strength` times the update, float32 in the weight's shape.

    With peft's magnitudes, the strength multiplies the product of the factors, as in peft; with LyCORIS's, the whole
    change.

    Raises ValueError with the update's shape if it does not fit the weight.
    """
    change = compute_update(parts, scale)
    if not fits_weight(change.shape, weight.shape):
        raise ValueError(f"its update is {list(change.shape)}")
    change = change.reshape(weight.shape)
    if (magnitude := parts.get("magnitude")) is not None:
        return _apply_magnitude(weight + strength * change, magnitude, may_be_of_inputs=False)
    if (magnitude := parts.get("dora_scale")) is not None:
        change = _apply_magnitude(weight + change, magnitude, may_be_of_inputs=True) - weight
    return weight + strength * change


def _apply_magnitude(weight: Tensor, magnitude: Tensor, may_be_of_inputs: bool) -> Tensor:
    """Rescale the weight to the magnitude of each output. LyCORIS may store magnitudes per input, as [1, in, ...]."""
    axis = 1 if may_be_of_inputs and magnitude.ndim > 1 and magnitude.shape[0] == 1 < weight.shape[0] else 0
    if magnitude.numel() != weight.shape[axis]:
        raise ValueError(f"its magnitudes are {list(magnitude.shape)}")
    others = [dim for dim in range(weight.ndim) if dim != axis]
    shape = [-1 if dim == axis else 1 for dim in range(weight.ndim)]
    return magnitude.reshape(shape) * weight / torch.linalg.vector_norm(weight, dim=others, keepdim=True)


def _hadamard_factor(parts: Tensors, side: str) -> Tensor:
    a, b, core = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"], parts.get(f"hada_t{side}")
    return a @ b if core is None else torch.einsum("pq...,po,qi->oi...", core, a, b)


def _kronecker_factor(parts: Tensors, side: str) -> tuple[Tensor, int | None]:
    """Return one factor of a Kronecker product, and its rank. The rank is None if the factor is stored as one matrix
    instead of a product."""
    if (whole := parts.get(f"lokr_w{side}")) is not None:
        return whole, None
    a, b, core = parts[f"lokr_w{side}_a"], parts[f"lokr_w{side}_b"], parts.get(f"lokr_t{side}")
    if core is not None:
        return torch.einsum("pq...,po,qi->oi...", core, a, b), b.shape[0]
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:]), b.shape[0]
