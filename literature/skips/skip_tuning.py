"""Skip-Tuning (Ma et al. 2024, arXiv 2402.15170): scale the skip connections of a U-Net, for sampling in few steps.
`fewstep export --change skip_tuning:FACTORS`"""

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
    """Return the module with its skip connections multiplied by factors, from the innermost to the outermost.

    `scales` are spaced evenly over the skip connections and interpolated linearly: one number applies to all, and two
    are for the innermost and the outermost. Raises UserError if the module has no skip connection, or fewer than the
    given numbers.
    """
    skips = find_skips(module, spec)
    if not scales:
        raise UserError(
            "--change skip_tuning needs at least one factor", "give numbers around 1, as in skip_tuning:0.8,1"
        )
    found = interpolate_factors(
        skips, parse_factors("skip_tuning", scales, "give numbers around 1, as in skip_tuning:0.8,1"), module
    )
    LOG.info(
        "%d skip connections: %s", len(skips), ", ".join(f"{list(s.shape[1:])} x {f:g}" for s, f in zip(skips, found))
    )
    applied = {skip.number: partial(_join_scaled, skip, factor) for skip, factor in zip(skips, found, strict=True)}
    return module, rewrite(module, spec, ConcatCalls, [Rewrite((), lambda *_: applied)])


def interpolate_factors(skips: Sequence[Skip], scales: Sequence[float], module: nn.Module) -> list[float]:
    """Return the factor of each skip connection."""
    if len(scales) > len(skips):
        what = f"--change skip_tuning has {len(scales)} factors, but {module_name(module)} has {len(skips)} skips"
        raise UserError(what, "give at most that many")
    places = np.linspace(0, 1, len(skips)), np.linspace(0, 1, len(scales))
    return [float(scale) for scale in np.interp(*places, scales)]


def _join_scaled(skip: Skip, factor: float, join: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Return the concatenation of these operands [B, channels, ...], with the skip connection scaled."""
    taken = list(operands)
    if factor != 1.0:
        taken[skip.operand] = taken[skip.operand] * factor
    return join(*taken)
