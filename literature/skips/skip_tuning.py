"""Skip-Tuning (Ma et al. 2024, arXiv 2402.15170) scales what the encoder of a U-Net hands to its decoder, for sampling
in few steps: `fewstep export --change skip_tuning:FACTORS`."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.literature.rewrite import Rewrite, rewrite
from fewstep.literature.skips.skip_connections import ConcatCalls, Skip, find_skips, parse_factors
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")


def skip_tuning(module: nn.Module, spec: Spec, *scales: str) -> tuple[nn.Module, Spec]:
    """The module whose skip connections are multiplied by factors, from the innermost to the outermost.

    `scales` are spread evenly over them, with straight lines between: one number holds for all, two go from the
    innermost to the outermost. UserError if the module has no skip connection, or fewer than there are numbers.
    """
    skips = find_skips(module, spec)
    if not scales:
        raise UserError("change skip_tuning has no factors", "give numbers around 1, as in skip_tuning:0.8,1")
    found = interpolate_factors(
        skips, parse_factors("skip_tuning", scales, "give numbers around 1, as in skip_tuning:0.8,1"), module
    )
    LOG.info(
        "%d skip connections: %s", len(skips), ", ".join(f"{list(s.shape[1:])} x {f:g}" for s, f in zip(skips, found))
    )
    applied = {skip.number: partial(_join_scaled, skip, factor) for skip, factor in zip(skips, found, strict=True)}
    return module, rewrite(module, spec, ConcatCalls, [Rewrite((), lambda *_: applied)])


def interpolate_factors(skips: Sequence[Skip], scales: Sequence[float], module: nn.Module) -> list[float]:
    """The factor of each skip connection."""
    if len(scales) > len(skips):
        what = f"change skip_tuning has {len(scales)} numbers, and {module_name(module)} has {len(skips)} skips"
        raise UserError(what, "give as many, or fewer")
    places = np.linspace(0, 1, len(skips)), np.linspace(0, 1, len(scales))
    return [float(scale) for scale in np.interp(*places, scales)]


def _join_scaled(skip: Skip, factor: float, join: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """The concatenation of these operands [B, channels, ...], the skip's changed."""
    taken = list(operands)
    if factor != 1.0:
        taken[skip.operand] = taken[skip.operand] * factor
    return join(*taken)
