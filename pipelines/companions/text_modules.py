"""Networks of a pipeline as torch modules whose arguments and results are the inputs and outputs of a graph, in order.

The text encoders of a pipeline are one module. It maps token ids to the denoiser's conditions, like the pipeline's
`encode_prompt`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Encode = Callable[..., tuple[Tensor, ...]]


class TextEncoders(nn.Module):
    """Loaded encoders, by names. `encode(module, *inputs)` computes the outputs."""

    def __init__(self, encode: Encode, **encoders: nn.Module) -> None:
        super().__init__()
        self.encode = encode
        for name, encoder in encoders.items():
            self.add_module(name, encoder)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.encode(self, *inputs)


def last_hidden(own: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """Stable Diffusion 1 and 2: the last hidden state of CLIP."""
    return (own.encoder(ids).last_hidden_state,)


def penultimate_hidden(own: Any, *ids: Tensor) -> tuple[Tensor, ...]:
    """Encode as Stable Diffusion XL does. Return the penultimate hidden states of one or two CLIP encoders,
    concatenated, and the projected text of the last one."""
    encoded = [penultimate(encoder, each) for encoder, each in zip(own.encoders, ids, strict=True)]
    return torch.cat([hidden for hidden, _ in encoded], dim=-1), encoded[-1][1]


def tokens_and_pooled(own: Any, clip: Tensor, t5: Tensor) -> tuple[Tensor, ...]:
    """FLUX.1: the tokens of T5, and the pooled text of CLIP."""
    return own.t5(t5).last_hidden_state, own.clip(clip).pooler_output


def hidden_without_padding(own: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """A CLIP whose config says so: the last hidden state with padding masked."""
    return (own.encoder(ids, attention_mask=mask).last_hidden_state,)


class Decoder(nn.Module):
    """Converts x to an image. The scaling of latents is undone first."""

    def __init__(self, autoencoder: Any, scale: "LatentScale") -> None:
        super().__init__()
        self.autoencoder, self.scale = autoencoder, scale

    def forward(self, *latent: Tensor) -> tuple[Tensor, ...]:
        return (self.autoencoder.decode(self.scale.to_latents(latent[0]), return_dict=False)[0],)


class Encoder(nn.Module):
    """Converts an image to x. If the autoencoder returns a distribution, x is its mean."""

    def __init__(self, autoencoder: Any, scale: "LatentScale") -> None:
        super().__init__()
        self.autoencoder, self.scale = autoencoder, scale

    def forward(self, *image: Tensor) -> tuple[Tensor, ...]:
        (encoded,) = self.autoencoder.encode(image[0], return_dict=False)
        return (self.scale.to_x(encoded if isinstance(encoded, Tensor) else encoded.mode()),)


class LatentScale(nn.Module):
    """Converts between an autoencoder's latents z and x = (z - shift) * factor; both may have one value per channel."""

    factor: Tensor
    shift: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        factor, shift = config.get("scaling_factor"), config.get("shift_factor")
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        factor = torch.tensor(1.0 if factor is None else float(factor))
        shift = torch.tensor(0.0 if shift is None else float(shift))
        if mean is not None and deviation is not None:  # used by variants of Stable Diffusion XL instead of a shift
            factor = factor / torch.tensor(deviation, dtype=torch.float32).reshape(1, -1, 1, 1)
            shift = torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def to_x(self, z: Tensor) -> Tensor:
        return (z - self.shift) * self.factor

    def to_latents(self, x: Tensor) -> Tensor:
        return x / self.factor + self.shift


def penultimate(encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden state before the last layer of a CLIP, and its projected text. Without a projection, the latter
    is the last hidden state."""
    encoded = encoder(ids, output_hidden_states=True)
    return encoded.hidden_states[-2], encoded[0]
