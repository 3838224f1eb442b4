"""FreeU (Si et al. 2023, arXiv 2309.11497): amplify half of the decoder's channels at the two lowest resolutions of a
U-Net, and scale the lowest frequencies of the skip connections there. `fewstep export --change freeu:B1,B2,S1,S2`"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.literature.rewrite import Rewrite, rewrite
from fewstep.literature.skips.skip_connections import CHANNELS, ConcatCalls, Skip, find_skips, parse_factors
from fewstep.plans.errors import UserError

RESOLUTIONS = 2  # number of resolutions, from the lowest
FIX = "give b1,b2,s1,s2, as in freeu:1.5,1.6,0.9,0.2"


def freeu(module: nn.Module, spec: Spec, *numbers: str) -> tuple[nn.Module, Spec]:
    """Return the module changed by b1, b2, s1 and s2, where 1 stands for the lowest resolution and 2 for the next. b
    multiplies the first half of the decoder's channels, and s the low frequencies of the skip connections.

    Raises UserError if the module has no skip connection, or does not sample images.
    """
    if len(numbers) != 4:
        raise UserError(f"--change freeu has {len(numbers)} numbers, but needs 4", FIX)
    b1, b2, s1, s2 = parse_factors("freeu", numbers, FIX)
    skips = find_skips(module, spec)
    resolutions = list(dict.fromkeys(skip.shape[CHANNELS + 1 :] for skip in skips))
    applied = {}
    for skip in skips:
        stage = resolutions.index(skip.shape[CHANNELS + 1 :])
        if stage >= RESOLUTIONS:
            continue
        if len(skip.shape) != CHANNELS + 3:
            own = f"{module_name(module)} has skip connections of {list(skip.shape[1:])}"
            what = f"--change freeu is for images [C, H, W], but {own}"
            raise UserError(what, "leave the change out")
        applied[skip.number] = partial(_join_amplified, skip, (b1, b2)[stage], (s1, s2)[stage])
    return module, rewrite(module, spec, ConcatCalls, [Rewrite((), lambda *_: applied)])


def _join_amplified(skip: Skip, b: float, s: float, join: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Return the concatenation of these operands [B, channels, ...] after the change."""
    place = skip.operand
    handed, backbone = operands[place], operands[1 - place]
    if s != 1.0:
        handed = scale_low_frequencies(handed, s)
    if b != 1.0:
        channels = torch.arange(backbone.shape[CHANNELS]).reshape(-1, *[1] * (backbone.ndim - CHANNELS - 1))
        backbone = backbone * torch.where(channels < backbone.shape[CHANNELS] // 2, b, 1.0)
    return join(handed, backbone) if place == 0 else join(backbone, handed)


def scale_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """Return x [B, C, H, W] with its frequencies 0 and -1 along each axis multiplied by `scale` (real part). This is
    FreeU's filter with threshold 1, written as products with the few waves that it changes."""
    height, width = x.shape[-2:]
    rows, columns = _angles(height)[:, None], _angles(width)[None, :]
    phases = []
    if height > 1:  # otherwise the frequency -1 is 0
        phases.append(rows)
    if width > 1:
        phases.append(columns)
    if height > 1 and width > 1:
        phases.append(rows + columns)
    waves = [torch.ones(height, width)]
    waves += [wave(phase).expand(height, width) for phase in phases for wave in (torch.cos, torch.sin)]
    basis = torch.stack(waves).flatten(1)  # [at most 7, H W]: a plain product, too narrow for int8
    low = (x.flatten(2) @ basis.T) @ (basis * (scale - 1) / basis[0].sum())
    return x + low.reshape(x.shape)


def _angles(size: int) -> Tensor:
    """Return `size` evenly spaced angles from 0 to less than 2 pi. They are computed with a sum of ones, since
    torch.onnx cannot use a free size as a number."""
    return torch.arange(size) / torch.ones(size).sum() * (2 * math.pi)
