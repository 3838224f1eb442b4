"""Networks of a pipeline as torch modules that take the inputs of a graph in order, and return its outputs in order.

The text encoders of a pipeline are one module: token ids in, the denoiser's conditions out, as the pipeline's
`encode_prompt` makes them.
"""

from typing import Any

import torch
from torch import Tensor, nn


class LastHidden(nn.Module):
    """Stable Diffusion 1 and 2: the last hidden state of CLIP."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder(ids[0]).last_hidden_state,)


class PenultimateHidden(nn.Module):
    """Stable Diffusion XL: the layer before the last of one CLIP or two, side by side, and the projected text of the
    last."""

    def __init__(self, *encoders: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:
        encoded = [penultimate(encoder, each) for encoder, each in zip(self.encoders, ids, strict=True)]
        return torch.cat([hidden for hidden, _ in encoded], dim=-1), encoded[-1][1]


class ThreeEncoders(nn.Module):
    """Stable Diffusion 3: two CLIPs side by side, zeros up to the width of T5, then its tokens, or zeros without it."""

    def __init__(self, first: nn.Module, second: nn.Module, t5: nn.Module | None, tokens: int, width: int) -> None:
        super().__init__()
        self.first, self.second, self.t5 = first, second, t5
        self.tokens, self.width = tokens, width

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:
        a, pooled_a = penultimate(self.first, ids[0])
        b, pooled_b = penultimate(self.second, ids[1])
        clip = torch.cat([a, b], dim=-1)
        clip = nn.functional.pad(clip, (0, self.width - clip.shape[-1]))
        if self.t5 is None:
            rest = clip.new_zeros(len(clip), self.tokens, self.width)
        else:
            rest = self.t5(ids[2]).last_hidden_state
        return torch.cat([clip, rest], dim=1), torch.cat([pooled_a, pooled_b], dim=-1)


class PooledAndTokens(nn.Module):
    """FLUX.1: the tokens of T5, and the pooled text of CLIP."""

    def __init__(self, clip: nn.Module, t5: nn.Module) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:
        return self.t5(ids[1]).last_hidden_state, self.clip(ids[0]).pooler_output


class MaskedHidden(nn.Module):
    """The last hidden state of T5, which sees no padding; for PixArt also the mask that says where that is."""

    def __init__(self, encoder: nn.Module, gives_mask: bool) -> None:
        super().__init__()
        self.encoder, self.gives_mask = encoder, gives_mask

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ids, mask = given
        hidden = self.encoder(ids, attention_mask=mask).last_hidden_state
        return (hidden, mask.clone()) if self.gives_mask else (hidden,)


class ZeroedHidden(nn.Module):
    """AuraFlow: the last hidden state of T5, and zeros in place of padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ids, mask = given
        hidden = self.encoder(ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None].to(hidden.dtype),)


class Decoder(nn.Module):
    """x to an image: the scaling that latents have where they are sampled is taken off first."""

    def __init__(self, autoencoder: Any, scale: "LatentScale") -> None:
        super().__init__()
        self.autoencoder, self.scale = autoencoder, scale

    def forward(self, *latent: Tensor) -> tuple[Tensor, ...]:
        return (self.autoencoder.decode(self.scale.off(latent[0]), return_dict=False)[0],)


class Encoder(nn.Module):
    """An image to x: the mean of the distribution, where there is one."""

    def __init__(self, autoencoder: Any, scale: "LatentScale") -> None:
        super().__init__()
        self.autoencoder, self.scale = autoencoder, scale

    def forward(self, *image: Tensor) -> tuple[Tensor, ...]:
        (encoded,) = self.autoencoder.encode(image[0], return_dict=False)
        return (self.scale.on(encoded if isinstance(encoded, Tensor) else encoded.mode()),)


class LatentScale(nn.Module):
    """Between an autoencoder's latents z and x = (z - shift) * factor; both may differ by channel."""

    factor: Tensor
    shift: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        factor, shift = config.get("scaling_factor"), config.get("shift_factor")
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        factor = torch.tensor(1.0 if factor is None else float(factor))
        shift = torch.tensor(0.0 if shift is None else float(shift))
        if mean is not None and deviation is not None:  # of Stable Diffusion XL's relatives, in place of a shift
            factor = factor / torch.tensor(deviation, dtype=torch.float32).reshape(1, -1, 1, 1)
            shift = torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def on(self, z: Tensor) -> Tensor:
        return (z - self.shift) * self.factor

    def off(self, x: Tensor) -> Tensor:
        return x / self.factor + self.shift


def penultimate(encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden state before the last layer, projected text) of a CLIP; the latter is its last state without one."""
    encoded = encoder(ids, output_hidden_states=True)
    return encoded.hidden_states[-2], encoded[0]
