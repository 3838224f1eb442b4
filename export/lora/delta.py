"""What a LoRA adds to one weight [out, in, *kernel]: the arithmetic of its forms, in float32; r is the rank.

LoRA    (Hu et al. 2021)        up [out, r] @ down [r, in]; of a convolution up [out, r, 1, 1], down [r, in, *kernel]
LoCon   (Yeh et al. 2023)       that, with a convolution [r, r, *kernel] between two of 1x1, `mid`
LoHa    (Hyeon-Woo et al. 2021) (w1_a @ w1_b) * (w2_a @ w2_b), elementwise
LoKr    (Yeh et al. 2023)       kron(w1, w2), each whole or a product of two
DoRA    (Liu et al. 2024)       m (W + delta) / |W + delta|, one norm for each output
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]  # by the names of `keys.py`, in float32
NEEDED = (("up", "down"), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("diff",))  # of a weight's update


@dataclass(frozen=True)
class AlphaScale:
    """alpha / r, from the configuration, for a file without an `alpha` of its own. alpha None stands for r."""

    alpha: float | None = None
    rank: float | None = None  # for forms that do not show it
    is_stabilized: bool = False  # alpha / sqrt(r): Kalajdzievski 2023

    def of(self, rank: int | None, own: Tensor | None) -> float:
        """The factor of an update of that rank."""
        r = rank or self.rank
        alpha = own.item() if own is not None else self.alpha
        if r is None or alpha is None:
            return 1.0
        return alpha / (math.sqrt(r) if self.is_stabilized else r)


def is_whole(parts: Parts) -> bool:
    """True if the parts make one update: none of a pair is missing, and there is none of another form."""
    forms = [needed for needed in NEEDED if set(needed) & set(parts)]
    complete = [needed for needed in forms if set(needed) <= set(parts)]
    kronecker = any(part.startswith("lokr") for part in parts)
    if kronecker and not _has_kronecker(parts) or forms != complete:
        return False
    return len(forms) + kronecker == 1 or not forms and not kronecker and "diff_b" in parts


def delta(parts: Parts, scale: AlphaScale) -> Tensor:
    """The update of the weight, [out, ...] in as many dimensions as its factors show, without magnitudes.

    ValueError or RuntimeError where the factors do not fit one another.
    """
    if "diff" in parts:
        return parts["diff"]
    if "hada_w1_a" in parts:
        first, second = (_hadamard(parts, side) for side in "12")
        return scale.of(parts["hada_w1_b"].shape[0], parts.get("alpha")) * first * second
    if _has_kronecker(parts):
        (first, one), (second, two) = (_kronecker(parts, side) for side in "12")
        factor = scale.of(one or two, parts.get("alpha"))
        return factor * torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second)
    up, down = parts["up"], parts["down"]
    factor = scale.of(down.shape[0], parts.get("alpha"))
    if "mid" in parts:
        return factor * torch.einsum("op,pq...,qi->oi...", up.flatten(1), parts["mid"], down.flatten(1))
    return factor * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def updated(weight: Tensor, parts: Parts, scale: AlphaScale, strength: float) -> Tensor:
    """The weight with the update, `strength` of the way from what it was. Float32, in the weight's shape.

    ValueError saying what shape the update has, where it is not the weight's.
    """
    change = delta(parts, scale)
    if change.shape[0] != weight.shape[0] or change.numel() != weight.numel():
        raise ValueError(f"its update is {list(change.shape)}")
    change = change.reshape(weight.shape)
    if (magnitude := parts.get("magnitude", parts.get("dora_scale"))) is not None:
        change = _with_magnitude(weight + change, magnitude, "magnitude" not in parts) - weight
    return weight + strength * change


def _with_magnitude(weight: Tensor, magnitude: Tensor, may_be_of_inputs: bool) -> Tensor:
    """The weight at the magnitude of each output; LyCORIS may store the magnitude of each input, as [1, in, ...]."""
    axis = 1 if may_be_of_inputs and magnitude.ndim > 1 and magnitude.shape[0] == 1 < weight.shape[0] else 0
    if magnitude.numel() != weight.shape[axis]:
        raise ValueError(f"its magnitudes are {list(magnitude.shape)}")
    others = [dim for dim in range(weight.ndim) if dim != axis]
    shape = [-1 if dim == axis else 1 for dim in range(weight.ndim)]
    return magnitude.reshape(shape) * weight / torch.linalg.vector_norm(weight, dim=others, keepdim=True)


def _hadamard(parts: Parts, side: str) -> Tensor:
    a, b, core = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"], parts.get(f"hada_t{side}")
    return a @ b if core is None else torch.einsum("pq...,po,qi->oi...", core, a, b)


def _has_kronecker(parts: Parts) -> bool:
    return all({f"lokr_w{side}"} <= set(parts) or {f"lokr_w{side}_{x}" for x in "ab"} <= set(parts) for side in "12")


def _kronecker(parts: Parts, side: str) -> tuple[Tensor, int | None]:
    """(a factor, its rank if it is a product)."""
    if (whole := parts.get(f"lokr_w{side}")) is not None:
        return whole, None
    a, b, core = parts[f"lokr_w{side}_a"], parts[f"lokr_w{side}_b"], parts.get(f"lokr_t{side}")
    if core is not None:
        return torch.einsum("pq...,po,qi->oi...", core, a, b), b.shape[0]
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:]), b.shape[0]
