"""FreeU (Si et al. 2023, arXiv 2309.11497) amplifies half of the decoder's channels at the two lowest resolutions of a
U-Net, and scales the lowest frequencies of the skips there: `fewstep export --change freeu:B1,B2,S1,S2`."""

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

RESOLUTIONS = 2  # from the lowest on
FIX = "give b1,b2,s1,s2, as in freeu:1.5,1.6,0.9,0.2"


def freeu(module: nn.Module, spec: Spec, *numbers: str) -> tuple[nn.Module, Spec]:
    """The module changed by b1, b2, s1 and s2: b multiplies the first half of the decoder's channels, s the low
    frequencies of what is handed to it, for the lowest resolution and the next.

    UserError if the module has no skip connection, or makes no images.
    """
    if len(numbers) != 4:
        raise UserError(f"change freeu has {len(numbers)} numbers", FIX)
    b1, b2, s1, s2 = parse_factors("freeu", numbers, FIX)
    skips = find_skips(module, spec)
    resolutions = list(dict.fromkeys(skip.shape[CHANNELS + 1 :] for skip in skips))
    applied = {}
    for skip in skips:
        stage = resolutions.index(skip.shape[CHANNELS + 1 :])
        if stage >= RESOLUTIONS:
            continue
        if len(skip.shape) != CHANNELS + 3:
            what = f"change freeu is for images, and {module_name(module)} hands over {list(skip.shape[1:])}"
            raise UserError(what, "leave the change out")
        applied[skip.number] = partial(_join_amplified, skip, (b1, b2)[stage], (s1, s2)[stage])
    return module, rewrite(module, spec, ConcatCalls, [Rewrite((), lambda *_: applied)])


def _join_amplified(skip: Skip, b: float, s: float, join: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """The concatenation of these operands [B, channels, ...], changed."""
    place = skip.operand
    handed, backbone = operands[place], operands[1 - place]
    if s != 1.0:
        handed = scale_low_frequencies(handed, s)
    if b != 1.0:
        channels = torch.arange(backbone.shape[CHANNELS]).reshape(-1, *[1] * (backbone.ndim - CHANNELS - 1))
        backbone = backbone * torch.where(channels < backbone.shape[CHANNELS] // 2, b, 1.0)
    return join(handed, backbone) if place == 0 else join(backbone, handed)


def scale_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """x [B, C, H, W] with its frequencies 0 and -1 along each axis multiplied by `scale`, real part: FreeU's filter
    with threshold 1, as products with the few waves that it changes."""
    height, width = x.shape[-2:]
    rows, columns = _angles(height)[:, None], _angles(width)[None, :]
    phases = []
    if height > 1:  # else its frequency -1 is 0
        phases.append(rows)
    if width > 1:
        phases.append(columns)
    if height > 1 and width > 1:
        phases.append(rows + columns)
    waves = [torch.ones(height, width)]
    waves += [wave(phase).expand(height, width) for phase in phases for wave in (torch.cos, torch.sin)]
    basis = torch.stack(waves).flatten(1)  # [at most 7, H W]: a plain product, too narrow to become int8
    low = (x.flatten(2) @ basis.T) @ (basis * (scale - 1) / basis[0].sum())
    return x + low.reshape(x.shape)


def _angles(size: int) -> Tensor:
    """[size], from 0 up to 2 pi. The size is counted: where it is free, torch.onnx takes no number made of it."""
    return torch.arange(size) / torch.ones(size).sum() * (2 * math.pi)
