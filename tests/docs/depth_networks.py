"""Lotus (He et al. 2024, arXiv 2409.18124) as the denoiser of a user, and a pipeline of Marigold."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import MarigoldDepthPipeline, UNet2DConditionModel
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from tests.families.tiny import UNET
from tests.tiny_pipelines import clip_components, write_clip_tokenizer

TEXT = np.random.default_rng(0).standard_normal((1, 7, 12)).astype(np.float32)
DEPTH = np.concatenate([np.sin([[1.0, 0.0]]), np.cos([[1.0, 0.0]])], 1).astype(np.float32)  # Lotus's task, encoded


def make_network(channels: int, **task: Any) -> Any:
    """Return a U-Net with these input channels that predicts the latents of a depth map."""
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        **UNET | {"block_out_channels": (16,)} | task,
    )


class Lotus(nn.Module):
    """Gets the picture before x, or, for Lotus-D, as x."""

    def __init__(self, takes_picture: bool) -> None:
        super().__init__()
        task = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
        self.network = make_network(8 if takes_picture else 4, **task)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, task: Tensor, *image: Tensor) -> Tensor:
        output: Tensor = self.network(torch.cat([*image, x], dim=1), time, text, class_labels=task).sample
        return output


def make_lotus(takes_picture: bool) -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    conditions = [Condition("text", "text", (7, 12), "float32"), Condition("task", "task", (4,), "float32")]
    conditions += [Condition("image", "image", (4, 8, 8), "float32")] if takes_picture else []
    return Lotus(takes_picture), Spec("depth", (4, 8, 8), tuple(conditions), "sample", ScheduleSpec("scaled-linear"))


def export_denoiser(bundle: Path, takes_picture: bool) -> None:
    """Export a Lotus to `bundle`, by a file beside it."""
    file = bundle.with_name("lotus.py")
    file.write_text(
        f"import {__name__} as networks\n\n\ndef make():\n    return networks.make_lotus({takes_picture})\n"
    )
    export(ExportOptions(f"{file}:make", bundle, verify="quick"))


def write_marigold(folder: Path) -> None:
    """Write the folder of a MarigoldDepthPipeline."""
    torch.manual_seed(0)
    parts = clip_components(write_clip_tokenizer(folder.with_name("vocabulary")), make_network(8))
    settings = {"prediction_type": "depth", "default_denoising_steps": 4, "default_processing_resolution": 16}
    MarigoldDepthPipeline(**parts, **settings).save_pretrained(folder)
