"""Policies of the diffusion_policy project (Chi et al. 2023, arXiv 2303.04137), with the weights of its `ema_model`.

    weights = load_file("policy.safetensors")
    network = ConditionalUnet1d(actions=2, condition=2 * 5)
    policy = DiffusionPolicy(network, {"obs": VectorObservation(5)}, observations=2)
    policy.load(weights)

The project's checkpoints are pickles that contain code; docs/policies.md shows how to convert one to safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.robots.networks import resnet
from fewstep.robots.networks.normalise import Normalise
from fewstep.robots.networks.resnet import Depth, ResNet
from fewstep.robots.networks.transformer import PolicyTransformer
from fewstep.robots.networks.unet1d import ConditionalUnet1d, from_diffusion_policy
from fewstep.robots.networks.vision import CentreCrop, Resize, Size

CHANNELS = 3  # number of channels of a picture
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of its pictures
NORMALISER = "normalizer.params_dict."
IDLE = "_dummy_variable"  # an empty tensor among the weights

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class VectorObservation:
    """An observation that is a vector of `count` values."""

    count: int


@dataclass(frozen=True)
class Picture:
    """An observation that is an image, uint8 [3, *size]. It is resized to `resize`, then cropped to `crop`, if these
    are given."""

    size: Size
    resize: Size | None = None
    crop: Size | None = None


class DiffusionPolicy(nn.Module):
    """A policy with raw observations: `forward(x, time, *observations)`.

    Observations [B, observations, ...] are in the order of `names`: images, then vectors, each sorted by name.

    Args:
        model: a `ConditionalUnet1d`, which takes all observations as one condition, or a `PolicyTransformer`.
        seen: the observations by name. A low-dimensional policy has a single vector named "obs".
        observations: the number of ticks that each observation covers.
        backbone: the ResNet of the image encoder.
        group_norm: the backbone has GroupNorm instead of BatchNorm.
        shared: use one encoder for all images.
        imagenet: normalise images with the statistics of ImageNet after the crop.
    """

    def __init__(
        self,
        model: ConditionalUnet1d | PolicyTransformer,
        seen: Mapping[str, VectorObservation | Picture],
        observations: int,
        *,
        backbone: Depth = "resnet18",
        group_norm: bool = True,
        shared: bool = False,
        imagenet: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.observations, self.shared = model, observations, shared
        pictures = {name: each for name, each in sorted(seen.items()) if isinstance(each, Picture)}
        self.names = (*pictures, *(name for name in sorted(seen) if name not in pictures))
        self.normalise = nn.ModuleDict({name: _identity_normaliser(seen[name]) for name in self.names})
        self.transforms = nn.ModuleDict({name: _transform(picture, imagenet) for name, picture in pictures.items()})
        norm = resnet.group_norm if group_norm else nn.BatchNorm2d
        encoders = {name: ResNet(backbone, norm) for name in (("rgb",) if shared and pictures else pictures)}
        self.obs_encoder = nn.ModuleDict({"key_model_map": nn.ModuleDict(encoders)})

    def forward(self, x: Tensor, time: Tensor, *observations: Tensor) -> Tensor:
        frames = {
            name: self.normalise[name](value).flatten(0, 1)
            for name, value in zip(self.names, observations, strict=True)
        }
        pictures = [self.transforms[name](frames.pop(name)) for name in self.transforms]
        features = torch.cat([*self._encode_pictures(pictures), *frames.values()], dim=1)
        tokens = features.unflatten(0, (-1, self.observations))
        return self.model(x, time, tokens.flatten(1) if isinstance(self.model, ConditionalUnet1d) else tokens)

    def _encode_pictures(self, pictures: list[Tensor]) -> list[Tensor]:
        encoders = list(self.obs_encoder["key_model_map"].children())
        if self.shared and pictures:
            return list(encoders[0](torch.cat(pictures)).chunk(len(pictures)))
        return [encoder(picture) for encoder, picture in zip(encoders, pictures, strict=True)]

    def load(self, weights: Weights) -> None:
        """Load the weights and the normalisation of an `ema_model`. Raises RuntimeError for missing or unknown
        weights."""
        own = {name: tensor for name, tensor in weights.items() if not name.startswith(NORMALISER) and IDLE not in name}
        model = {name.removeprefix("model."): tensor for name, tensor in own.items() if name.startswith("model.")}
        encoder = {name: tensor for name, tensor in own.items() if name.startswith("obs_encoder.")}
        if left := own.keys() - {f"model.{name}" for name in model} - encoder.keys():
            raise RuntimeError(f"unknown weights {sorted(left)}")
        is_unet = isinstance(self.model, ConditionalUnet1d)
        self.model.load_state_dict(from_diffusion_policy(model) if is_unet else model)
        self.obs_encoder.load_state_dict({name.removeprefix("obs_encoder."): each for name, each in encoder.items()})
        for name, normalise in self.normalise.items():
            assert isinstance(normalise, Normalise)
            normalise.set(*_affine(weights, name))


def action_units(weights: Weights, name: str = "action") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (scale, shift) from model range to the units of actions."""
    scale, offset = _affine(weights, name)
    return tuple((1 / scale).tolist()), tuple((-offset / scale).tolist())


def typical_range(weights: Weights, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the least and the greatest values of an observation in the training data."""
    low, high = (weights[f"{NORMALISER}{name}.input_stats.{end}"].double().flatten() for end in ("min", "max"))
    return tuple(low.tolist()), tuple(high.tolist())


def _affine(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Return scale and offset of normalised = scale * raw + offset, in float64."""
    scale, offset = (weights.get(f"{NORMALISER}{name}.{each}") for each in ("scale", "offset"))
    if scale is None or offset is None:
        raise RuntimeError(f"no normalisation of {name!r} among the weights")
    return scale.double().flatten(), offset.double().flatten()


def _identity_normaliser(seen: VectorObservation | Picture) -> Normalise:
    """Return a normaliser without effect, whose values `load` sets."""
    count = CHANNELS if isinstance(seen, Picture) else seen.count
    return Normalise((0.0,) * count, (1.0,) * count, (0.0,) * count, picture=isinstance(seen, Picture))


def _transform(picture: Picture, imagenet: bool) -> nn.Module:
    steps: list[nn.Module] = []
    size = picture.size
    if picture.resize is not None:
        steps.append(Resize(size, picture.resize))
        size = picture.resize
    if picture.crop is not None:
        steps.append(CentreCrop(size, picture.crop))
    if imagenet:
        steps.append(Channels(*IMAGENET))
    return nn.Sequential(*steps)


class Channels(nn.Module):
    """Compute (x - mean) / deviation for each channel of images [N, 3, H, W]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation
