"""Random images and videos for the arguments of a pipeline's call that take one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

PICTURES = (
    *("image", "original_image", "control_image", "mask_image", "mask", "control_mask"),
    *("video", "control_video", "pose_video", "face_video"),
)
MASKS, VIDEOS = ("mask_image", "mask", "control_mask"), ("video", "control_video", "pose_video", "face_video")
SIDE, FRAMES = 512, 9  # of a picture and a video, if neither the call nor the network shows them
LATENT_SIDE = 64  # of the latents of such a picture, with an autoencoder of factor 8


def find_side(pipeline: Any) -> int:
    """Return the side in pixels of the pictures for which the U-Net of a pipeline is made, or `SIDE`. One that names no
    size, such as that of Kandinsky 3, gets latents of `LATENT_SIDE`."""
    config = getattr(getattr(pipeline, "unet", None), "config", None)
    size = None if config is None else getattr(config, "sample_size", LATENT_SIDE)
    processor = getattr(getattr(pipeline, "image_processor", None), "config", None)
    factor = getattr(pipeline, "vae_scale_factor", getattr(processor, "vae_scale_factor", None))
    return size * factor if isinstance(size, int) and isinstance(factor, int) else SIDE


def make_pictures(takes: Mapping[str, Any], given: Mapping[str, Any], seed: int, side: int = SIDE) -> dict[str, Any]:
    """Return a random image, mask or video for each image argument of a call that is not given. They depend on the
    seed. `side` is their size in pixels unless the call has a height by default: without one, the picture has it."""
    random = np.random.default_rng(seed)
    side = SIDE if getattr(takes.get("height"), "default", None) is not None else side
    height, width = int(given.get("height") or side), int(given.get("width") or side)
    made: dict[str, Any] = {}
    for name in PICTURES:
        if name not in takes or name in given:
            continue
        if name in VIDEOS:
            count = int(given.get("num_frames") or FRAMES)
            made[name] = [_picture(random, height, width) for _ in range(count)]
        elif name in MASKS:
            made[name] = _mask(height, width, seed)
        else:
            made[name] = _picture(random, height, width)
    return made


def _picture(random: np.random.Generator, height: int, width: int) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (height, width, 3)).astype("uint8"))


def _mask(height: int, width: int, seed: int) -> Image.Image:
    """Return a mask image that is white in one half: the left one, or the upper one for an odd seed. It stays a mask of
    0 and 1 when it is resized."""
    mask = np.zeros((height, width), "uint8")
    if seed % 2:
        mask[: height // 2] = 255
    else:
        mask[:, : width // 2] = 255
    return Image.fromarray(mask, "L")
