"""Pipelines of diffusers and their bundles give the same samples from the same noise, within a thousandth."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fewstep.plans import noise
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition

pytest.importorskip("diffusers")
import diffusers

from tests.families.chain import Exported

pytestmark = pytest.mark.slow

Array = NDArray[Any]
Arrays = dict[str, Array]
SEEDS, STEPS, WEIGHT = [3, 4], 3, 2.5  # two steps would leave a multistep solver's history out
ARGUMENTS = {  # condition -> the pipelines' name for it; that of the negative prompt begins with "negative_"
    "encoder_hidden_states": "prompt_embeds",
    "text_embeds": "pooled_prompt_embeds",
    "pooled_projections": "pooled_prompt_embeds",
}


@dataclass(frozen=True)
class Case:
    """A family, further arguments of its pipeline, and the conditions `shared` by the branches."""

    family: str
    call: dict[str, Any]
    shared: dict[str, Any]


CONTROL = np.random.default_rng(1).uniform(0, 1, (2, 3, 16, 16)).astype(np.float32)
WEIGHTED = {"guidance_scale": WEIGHT}
CASES = [
    Case("unet_2d_condition", WEIGHTED, {}),
    Case("sdxl", WEIGHTED, {}),
    Case(
        "controlnet",
        WEIGHTED | {"image": torch.from_numpy(CONTROL), "controlnet_conditioning_scale": 0.7},
        {"controlnet_cond": CONTROL, "conditioning_scale": [0.7, 0.7]},
    ),
    Case("flux", {"guidance_scale": 4.0, "true_cfg_scale": WEIGHT}, {"guidance": [4.0, 4.0]}),
]


@pytest.mark.parametrize("case", CASES, ids=[case.family for case in CASES])
def test_a_bundle_samples_as_the_pipeline_does(
    case: Case, family_bundle: Callable[[str], Exported], record_property: Callable[[str, object], None]
) -> None:
    torch.set_num_threads(1)
    made = family_bundle(case.family)
    folder = folder_of(made)
    with load(made.bundle) as sampler:
        manifest = sampler.bundle.manifest
        rng = np.random.default_rng(0)
        positive, negative = (drawn(manifest.conditions, rng) for _ in range(2))
        plan, branches = f"scheduler:{STEPS}", {"uncond": negative}
        found = sampler.sample(plan, SEEDS, positive | case.shared, WEIGHT, branches=branches)
    x = torch.from_numpy(np.stack([noise.normal(seed, 0, manifest.x_shape) for seed in SEEDS]))
    expected = run(case, folder, x, positive, negative)
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    record_property("relative", float(relative))  # in the file of --junitxml
    assert relative <= 1e-3


def test_a_bundle_of_dit_samples_as_the_schedulers_loop_does(
    family_bundle: Callable[[str], Exported], record_property: Callable[[str, object], None]
) -> None:
    torch.set_num_threads(1)
    made = family_bundle("dit")
    pipeline = open_pipeline(folder_of(made))
    with load(made.bundle) as sampler:
        manifest = sampler.bundle.manifest
        labels = {condition.name: [1, 2] for condition in manifest.conditions}
        found = sampler.sample(f"scheduler:{STEPS}", SEEDS, labels, WEIGHT)
    x = torch.from_numpy(np.stack([noise.normal(seed, 0, manifest.x_shape) for seed in SEEDS]))
    network, scheduler = pipeline.transformer, pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            given, none = torch.tensor([1, 2]), torch.full((2,), 1000)
            eps, unled = (network(x, t.expand(2), each).sample[:, : x.shape[1]] for each in (given, none))
            x = scheduler.step(unled + WEIGHT * (eps - unled), t, x).prev_sample
    expected = x.numpy()
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    record_property("relative", float(relative))
    assert relative <= 1e-3


def folder_of(made: Exported) -> Path:
    """Return the folder that a family wrote."""
    return Path(made.source["source"] if isinstance(made.source, dict) else made.source)


def drawn(conditions: tuple[Condition, ...], rng: np.random.Generator) -> Arrays:
    """Return values for two samples of conditions that differ between branches."""
    values = {}
    for each in conditions:
        if not each.shared:
            values[each.name] = rng.standard_normal((2, *each.shape)).astype(np.float32)
    return values


def run(case: Case, folder: Path, x: torch.Tensor, positive: Arrays, negative: Arrays) -> Array:
    """Return the pipeline's own samples, with the folder's networks and scheduler."""
    pipeline = open_pipeline(folder)
    prompts = {name: torch.from_numpy(values) for name, values in name_values(positive).items()}
    prompts |= {f"negative_{name}": torch.from_numpy(values) for name, values in name_values(negative).items()}
    if case.family == "flux":
        x = pipeline._pack_latents(x, *x.shape)
    size = {"height": 16, "width": 16, "num_inference_steps": STEPS}
    with torch.no_grad():
        made = pipeline(latents=x, output_type="latent", return_dict=False, **size, **prompts, **case.call)[0]
    if case.family == "flux":
        made = pipeline._unpack_latents(made, 16, 16, pipeline.vae_scale_factor)
    result: Array = made.numpy()
    return result


def open_pipeline(folder: Path) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def name_values(values: Arrays) -> Arrays:
    return {ARGUMENTS[name]: array for name, array in values.items()}
