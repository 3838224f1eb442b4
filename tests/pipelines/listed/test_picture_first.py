"""Folders whose U-Net takes a picture before x: Lotus (He et al. 2024, arXiv 2409.18124) and Marigold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import Sampler, load
from tests.families.tiny import UNET, diffusers_folder

diffusers = pytest.importorskip("diffusers")

TEXT = np.random.default_rng(0).standard_normal((1, 7, 12)).astype(np.float32)
DEPTH = np.concatenate([np.sin([[1.0, 0.0]]), np.cos([[1.0, 0.0]])], 1).astype(np.float32)  # Lotus's task, encoded


def open_folder(folder: Path, pipeline: str, channels: int, takes_task: bool = True) -> tuple[Any, Sampler]:
    """The network of such a folder, and its bundle. It predicts the sample, and takes a task like Lotus or none."""
    task = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4} if takes_task else {}
    made = diffusers.UNet2DConditionModel(
        in_channels=channels,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        **UNET | {"block_out_channels": (16,)} | task,
    )
    scheduler = diffusers.DDIMScheduler(
        prediction_type="sample", beta_schedule="scaled_linear", timestep_spacing="trailing", clip_sample=False
    )
    source = diffusers_folder(folder, made, scheduler=scheduler, text_tokens=7, pipeline=pipeline)
    export(ExportOptions(source, folder / "bundle", verify="quick"))
    return made, load(folder / "bundle")


def said(network: Any, x: np.ndarray, text: np.ndarray = TEXT) -> np.ndarray:
    with torch.no_grad():
        given, task = torch.from_numpy(text), torch.from_numpy(DEPTH)
        return network(torch.from_numpy(x), torch.tensor([999]), given, class_labels=task).sample.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "tokens"), [("LotusGPipeline", 7), ("MarigoldDepthPipeline", 2)])
def test_a_picture_comes_before_x(pipeline: str, tokens: int, tmp_path: Path) -> None:
    """One step is the network's sample of [picture, noise]; the task is its class embedding."""
    network, sampler = open_folder(tmp_path, pipeline, 8)
    picture = np.random.default_rng(1).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    text = TEXT[:, :tokens]
    who = {"text": text, "class_embedding": DEPTH, "image": picture}
    (state,) = sampler.steps("ddim:1", [0], who)
    expected = said(network, np.concatenate([picture, state.u], 1), text)
    np.testing.assert_allclose(state.after[0], expected, atol=1e-4)
    assert np.abs(expected - said(network, np.concatenate([state.u, picture], 1), text)).max() > 1e-2


@pytest.mark.slow
def test_lotus_d_is_one_step_from_the_picture_alone(tmp_path: Path) -> None:
    """Without noise and scheduler, the sample is the network's output for the picture at the last timestep."""
    network, sampler = open_folder(tmp_path, "LotusDPipeline", 4)
    picture = np.random.default_rng(1).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    who, given = {"text": TEXT, "class_embedding": DEPTH}, {"image": picture}
    made = sampler.sample("ddim:1", [0], who, given=given, strength=1.0, renoise=0)
    np.testing.assert_allclose(made, said(network, picture), atol=1e-4)
    assert np.abs(sampler.sample("ddim:1", [0], who, given=given, strength=1.0) - made).max() > 1e-2
