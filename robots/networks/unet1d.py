"""The FiLM-conditioned 1-D U-Net over a sequence of actions: Diffusion Policy (Chi et al. 2023, arXiv 2303.04137).

Weight names are LeRobot's; `from_diffusion_policy` renames weights of the authors' own code.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FINAL_GROUPS = 8  # groups of the last GroupNorm, independent of the others


class TimeFeatures(nn.Module):
    """Sines, then cosines, of times [B]: features [B, width] with wavelengths from 2 pi to 20 000 pi."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, time: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000) / (half - 1)))
        angles = time.float()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ConvBlock(nn.Module):
    """A convolution over time, then GroupNorm and Mish."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2),
            nn.GroupNorm(groups, channels_out),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class FilmBlock(nn.Module):
    """Two ConvBlocks. Between them the condition shifts each channel, and scales it if `scales`."""

    def __init__(
        self, channels_in: int, channels_out: int, condition: int, kernel: int, groups: int, *, scales: bool
    ) -> None:
        super().__init__()
        self.scales = scales
        self.conv1 = ConvBlock(channels_in, channels_out, kernel, groups)
        self.conv2 = ConvBlock(channels_out, channels_out, kernel, groups)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, channels_out * (2 if scales else 1)))
        same = channels_in == channels_out
        self.residual_conv = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = self.cond_encoder(condition)[:, :, None]
        h = self.conv1(x)
        if self.scales:
            scale, shift = modulation.chunk(2, dim=1)
            h = scale * h + shift
        else:
            h = h + modulation
        return self.conv2(h) + self.residual_conv(x)


class ConditionalUnet1d(nn.Module):
    """A 1-D U-Net that denoises actions [B, horizon, actions], given timesteps [B] and a condition [B, condition].

    Args:
        actions: elements of one action.
        condition: length of the condition; 0 for none.
        widths: channels of each level. The horizon is halved between levels, so it is a multiple of 2^(levels - 1).
        kernel: odd size of the convolutions.
        groups: groups of the GroupNorms.
        time_width: width of the timestep embedding.
        scales: the condition also scales channels, in addition to shifting them.
        marks: number of additional elements of x after those of an action, which are inputs and not predicted.
    """

    def __init__(
        self,
        actions: int,
        condition: int,
        widths: Sequence[int] = (256, 512, 1024),
        *,
        kernel: int = 3,
        groups: int = 8,
        time_width: int = 256,
        scales: bool = False,
        marks: int = 0,
    ) -> None:
        super().__init__()
        self.diffusion_step_encoder = nn.Sequential(
            TimeFeatures(time_width),
            nn.Linear(time_width, 4 * time_width),
            nn.Mish(),
            nn.Linear(4 * time_width, time_width),
        )

        def block(channels_in: int, channels_out: int) -> FilmBlock:
            return FilmBlock(channels_in, channels_out, time_width + condition, kernel, groups, scales=scales)

        self.down_modules = nn.ModuleList()
        for level, (narrow, wide) in enumerate(zip((actions + marks, *widths[:-1]), widths, strict=True)):
            is_last = level == len(widths) - 1
            halve = nn.Identity() if is_last else nn.Conv1d(wide, wide, 3, stride=2, padding=1)
            self.down_modules.append(nn.ModuleList([block(narrow, wide), block(wide, wide), halve]))
        self.mid_modules = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        self.up_modules = nn.ModuleList()
        for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=True):
            double = nn.ConvTranspose1d(narrow, narrow, 4, stride=2, padding=1)
            self.up_modules.append(nn.ModuleList([block(2 * wide, narrow), block(narrow, narrow), double]))
        self.final_conv = nn.Sequential(
            ConvBlock(widths[0], widths[0], kernel, FINAL_GROUPS), nn.Conv1d(widths[0], actions, 1)
        )

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        known = self.diffusion_step_encoder(time)
        if condition is not None:
            known = torch.cat([known, condition], dim=1)
        h, skips = x.transpose(1, 2), []
        for level in self.down_modules:
            first, second, halve = level.children()
            h = second(first(h, known), known)
            skips.append(h)
            h = halve(h)
        for middle in self.mid_modules:
            h = middle(h, known)
        for level in self.up_modules:
            first, second, double = level.children()
            h = double(second(first(torch.cat([h, skips.pop()], dim=1), known), known))
        actions: Tensor = self.final_conv(h).transpose(1, 2)
        return actions


def from_diffusion_policy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of diffusion_policy's `ConditionalUnet1D` to the names of this module."""
    names = {".blocks.0.": ".conv1.", ".blocks.1.": ".conv2.", ".2.conv.": ".2."}
    renamed = {}
    for name, weight in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = weight
    return renamed
