"""The comparison of a listed pipeline's samples notices another scheduler, and guidance of the wrong branch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.pipelines import listed
from benchmarks.pipelines.listed import compare_listed
from tests.pipelines import autoencoder, randomize
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")
SETTINGS = {"class_labels": [1], "guidance_scale": 4.0}


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
    assert found.difference < 2e-5 and not found.has_learned_variance


def change_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    describe: Callable[..., Any] = listed._describe

    def other(*given: Any) -> Any:
        config, described = describe(*given)
        return {**config, "beta_end": 0.021}, described

    monkeypatch.setattr(listed, "_describe", other)


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
