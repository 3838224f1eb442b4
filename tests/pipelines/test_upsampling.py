"""Recorded networks that upsample, where diffusers branches on the number of rows."""

from pathlib import Path

import pytest

from fewstep.export.batches import batch_range
from fewstep.export.load_source import load_source
from fewstep.graph.graph import BATCH
from fewstep.pipelines.source import load_diffusers_folder
from tests.recorded_pipelines import text_to_video
from tests.tiny_pipelines import randomize

diffusers = pytest.importorskip("diffusers")

UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
FILE = """
import torch
from diffusers import DDPMPipeline, DDIMScheduler, UNet2DModel

class Mine(DDPMPipeline):
    pass

def make():
    torch.manual_seed(0)
    return Mine(UNet2DModel(**{unet!r}), DDIMScheduler(clip_sample=False))
"""


@pytest.mark.slow
def test_a_network_of_pictures_is_traced_below_64_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(unet=UNET))
    source = load_source(f"{tmp_path / 'mine.py'}:make")
    graph = source.trace().graph
    assert (source.batch_least, source.batch_limit) == (None, 63)
    assert [value.shape[0] for value in graph.inputs] == [BATCH, BATCH]


@pytest.mark.parametrize("frames, limits", [(4, (None, 15)), (16, (None, 3)), (21, (None, 3)), (24, (3, 63))])
def test_frames_are_rows(frames: int, limits: tuple[int | None, int]) -> None:
    """Networks are traced with three samples. All batches between the limits are on the same side of 64 rows."""
    assert batch_range(diffusers.UNet2DModel(**UNET), (4, frames, 8, 8)) == limits
    least, limit = limits
    assert len({batch * frames >= 64 for batch in range(least or 1, limit + 1)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("frames", [4, 24])
def test_a_network_of_videos_is_traced_on_one_side_of_64_rows(tmp_path: Path, frames: int) -> None:
    folder = text_to_video(tmp_path / "video")
    source = load_diffusers_folder(folder, {"height": 16, "width": 16, "num_frames": frames})
    assert source.spec.x_shape[1] == frames
    assert source.trace().graph.outputs[0].shape == (BATCH, *source.spec.x_shape)


def test_other_networks_are_not_limited() -> None:
    network = randomize(diffusers.DiTTransformer2DModel(num_layers=1, attention_head_dim=4, num_attention_heads=2))
    assert batch_range(network, (4, 8, 8)) == (None, None)
