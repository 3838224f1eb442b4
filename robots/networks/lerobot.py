"""LeRobot's diffusion policy: observation encoders and the 1-D U-Net, with LeRobot's weight names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.robots.networks import resnet
from fewstep.robots.networks.resnet import STRIDE, WIDTHS, Depth
from fewstep.robots.networks.unet1d import ConditionalUnet1d
from fewstep.robots.networks.vision import CentreCrop, Resize, Size, SpatialSoftmax

Unet1d = Callable[[int, int], ConditionalUnet1d]


@dataclass(frozen=True)
class Vision:
    """How images from `cameras` cameras, all of one `size`, are encoded. They are resized, then cropped, if these sizes
    are given."""

    cameras: int
    size: Size
    backbone: Depth = "resnet18"
    resize: Size | None = None
    crop: Size | None = None
    group_norm: bool = False
    keypoints: int = 32
    separate: bool = True  # an encoder for each camera


class RgbEncoder(nn.Module):
    """Encode normalised images [N, 3, H, W] as features [N, 2 * keypoints]."""

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        size = vision.size
        self.resize = nn.Identity() if vision.resize is None else Resize(size, vision.resize)
        size = vision.resize or size
        self.crop = nn.Identity() if vision.crop is None else CentreCrop(size, vision.crop)
        size = vision.crop or size
        norm = resnet.group_norm if vision.group_norm else nn.BatchNorm2d
        self.backbone = nn.Sequential(*resnet.make_layers(vision.backbone, norm).values())
        height, width = (-(-side // STRIDE) for side in size)
        self.pool = SpatialSoftmax(WIDTHS[-1], (height, width), vision.keypoints)
        self.out = nn.Linear(2 * vision.keypoints, 2 * vision.keypoints)

    def forward(self, x: Tensor) -> Tensor:
        keypoints = self.pool(self.backbone(self.crop(self.resize(x))))
        return torch.relu(self.out(keypoints.flatten(1)))


class LeRobotDiffusion(nn.Module):
    """The denoiser of noisy actions [B, horizon, actions], timesteps [B] and normalised observations.

    Observations are vectors [B, observations, n], and images [B, observations, 3, H, W], one per camera. `state` and
    `environment` are the lengths of the vectors. `unet` makes the U-Net from the lengths of an action and of the
    condition.
    """

    def __init__(
        self, actions: int, observations: int, state: int, vision: Vision | None, environment: int, unet: Unet1d
    ) -> None:
        super().__init__()
        features = state + environment
        if vision is not None:
            features += vision.cameras * 2 * vision.keypoints
            separate = nn.ModuleList([RgbEncoder(vision) for _ in range(vision.cameras if vision.separate else 0)])
            self.rgb_encoder = separate if vision.separate else RgbEncoder(vision)
        self.unet = unet(actions, observations * features)

    def forward(
        self, x: Tensor, time: Tensor, state: Tensor, pictures: Sequence[Tensor], environment: Tensor | None = None
    ) -> Tensor:
        features = [state, *self._encode_cameras(pictures), *([] if environment is None else [environment])]
        return self.unet(x, time, torch.cat(features, dim=2).flatten(1))

    def _encode_cameras(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Return the features [B, observations, n] of each camera."""
        if not pictures:
            return []
        observations, cameras = pictures[0].shape[1], len(pictures)
        if isinstance(self.rgb_encoder, nn.ModuleList):
            encoded = [
                encoder(picture.flatten(0, 1)) for encoder, picture in zip(self.rgb_encoder, pictures, strict=True)
            ]
            return [features.unflatten(0, (-1, observations)) for features in encoded]
        together = self.rgb_encoder(torch.stack(tuple(pictures), dim=2).flatten(0, 2))  # one call of the shared encoder
        return [together.unflatten(0, (-1, observations, cameras)).flatten(2)]
