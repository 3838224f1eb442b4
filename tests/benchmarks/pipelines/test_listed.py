"""The comparison of a listed pipeline's samples notices another scheduler, and guidance of the wrong branch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.pipelines import listed
from benchmarks.pipelines.listed import compare_listed
from tests.refusals import refuses
from tests.tiny_pipelines import autoencoder, randomize

diffusers = pytest.importorskip("diffusers")
SETTINGS = {"class_labels": [1], "guidance_scale": 4.0}


@pytest.fixture(autouse=True)
def read_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the folder as that of a listed pipeline."""
    monkeypatch.setattr("fewstep.pipelines.listed.folder.is_recorded", lambda folder: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DiT, whose output has a learned variance, and which steps a copy of x for each branch of guidance."""
    path = tmp_path_factory.mktemp("listed") / "dit"
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8, "patch_size": 2}
    network = randomize(diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, **sizes))
    torch.manual_seed(0)
    made = diffusers.DiTPipeline(transformer=network, vae=autoencoder(), scheduler=diffusers.DDIMScheduler())
    made.save_pretrained(path)
    return path


def test_the_samples_of_a_listed_pipeline_agree(folder: Path) -> None:
    found = compare_listed(folder, SETTINGS)
    assert found.difference < 2e-5 and not found.is_led


@pytest.mark.slow
def test_plans_are_of_the_shape_of_x(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shift of a flow depends on it."""
    make: Callable[..., Any] = listed.plan_from_scheduler_config
    shapes = list[tuple[int, ...]]()

    def record_shape(config: Any, **given: Any) -> Any:
        shapes.append(given["x_shape"])
        return make(config, **given)

    monkeypatch.setattr(listed, "plan_from_scheduler_config", record_shape)
    compare_listed(folder, SETTINGS)
    assert set(shapes) == {(4, 8, 8)}


def change_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., Any] = listed.plan_from_scheduler_config

    def other(config: Any, **given: Any) -> Any:
        return make({**config, "beta_end": 0.021}, **given)

    monkeypatch.setattr(listed, "plan_from_scheduler_config", other)


def swap_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    names: Callable[..., list[str]] = listed.branch_names
    monkeypatch.setattr(listed, "branch_names", lambda *given: names(*given)[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("change", [change_scheduler, swap_branches])
def test_a_wrong_scheduler_or_guidance_is_noticed(
    change: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with refuses("differs by more"):
        compare_listed(folder, SETTINGS)


@pytest.mark.slow
def test_a_part_is_kept_from_the_second_step_on(tmp_path: Path) -> None:
    """Kandinsky 2.2 begins with noise everywhere, and sets the known part after each step. With it from the start on,
    x would differ by several percent."""
    network = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=9,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=8,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        cross_attention_dim=8,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    movq = diffusers.VQModel(
        block_out_channels=(32, 32), norm_num_groups=4, latent_channels=4, norm_type="spatial", vq_embed_dim=4, **blocks
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    made = diffusers.KandinskyV22InpaintPipeline(unet=randomize(network), movq=randomize(movq), scheduler=scheduler)
    made.save_pretrained(tmp_path / "kandinsky")
    settings: dict[str, Any] = {"height": 32, "width": 32, "guidance_scale": 4.0}
    for number, name in enumerate(("image_embeds", "negative_image_embeds")):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(number).standard_normal((1, 8)).astype(np.float32))
        settings[name] = f"@{tmp_path / name}.npy"
    found = compare_listed(tmp_path / "kandinsky", settings)
    assert found.difference < 2e-5 and not found.is_led
