"""The update that a LoRA adds to a weight [out, in, *kernel], as two factors: up [out, r] times down [r, in * kernel].

Each form of `export/lora/delta.py` is exactly such a product. The Hadamard product or the Kronecker product of two such
products has rank r1 r2. An update with magnitudes (DoRA) is not such a product.
"""

from typing import NamedTuple

import numpy as np

from fewstep.runtime.lora.file import AlphaScale, Floats, Parts, has_kronecker


class Factors(NamedTuple):
    up: Floats  # [out, r]
    down: Floats  # [r, columns]


def factorize(parts: Parts, scale: AlphaScale) -> Factors:
    """Return the factors of an update, with its scale in `up`. Raises ValueError if the parts do not fit together."""
    alpha = parts.get("alpha")
    if "diff" in parts:
        return _product(parts["diff"])
    if "hada_w1_a" in parts:
        first, second = (_side(parts, "hada", f"w{side}", f"t{side}") for side in "12")
        up = np.einsum("op,oq->opq", first.up, second.up).reshape(len(first.up), -1)
        down = np.einsum("pc,qc->pqc", first.down, second.down).reshape(-1, first.down.shape[1])
        return _scale(Factors(up, down), scale.update_factor(parts["hada_w1_b"].shape[0], alpha))
    if has_kronecker(parts):
        first, second = (_side(parts, "lokr", f"w{side}", f"t{side}") for side in "12")
        ranks = [parts[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in parts]
        product = Factors(np.kron(first.up, second.up), np.kron(first.down, second.down))
        return _scale(product, scale.update_factor(ranks[0] if ranks else None, alpha))
    product = Factors(_flatten(parts["up"]), _apply_core(parts.get("mid"), parts["down"]))
    return _scale(product, scale.update_factor(parts["down"].shape[0], alpha))


def _side(parts: Parts, form: str, weight: str, core: str) -> Factors:
    """Return one of the two matrices of a product, in factors.

    The file contains the matrix itself, or two factors, with or without a core tensor between them.
    """
    if (matrix := parts.get(f"{form}_{weight}")) is not None:
        return _product(matrix)
    a, b = parts[f"{form}_{weight}_a"], parts[f"{form}_{weight}_b"]
    middle = parts.get(f"{form}_{core}")
    return Factors(a if middle is None else a.T, _apply_core(middle, b))


def _apply_core(core: Floats | None, down: Floats) -> Floats:
    """Return a down factor [r, columns], multiplied by a core [p, q, *kernel] if there is one."""
    return _flatten(down if core is None else np.einsum("pq...,qi->pi...", core, _flatten(down)))


def _product(weight: Floats) -> Factors:
    """Return a matrix as the product of itself and an identity matrix. Of the two possible orders, the one with the
    smaller inner dimension is used."""
    matrix = _flatten(weight)
    out, columns = matrix.shape
    one = np.eye(min(out, columns), dtype=np.float32)
    return Factors(one, matrix) if out <= columns else Factors(matrix, one)


def _flatten(array: Floats) -> Floats:
    if array.ndim < 2:
        raise ValueError(f"{list(array.shape)} is not a matrix")
    return array.reshape(len(array), -1)


def _scale(product: Factors, scale: float) -> Factors:
    if product.up.shape[1] != len(product.down):
        raise ValueError("the factors do not fit together")
    return product._replace(up=np.float32(scale) * product.up)
