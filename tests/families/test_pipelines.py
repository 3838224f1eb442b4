"""Pipelines of diffusers and their bundles give the same samples from the same noise, within a thousandth."""

import json
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
NETWORKS = ("unet", "transformer", "controlnet", "adapter")
ARGUMENTS = {  # condition -> the pipelines' name for it; that of the negative prompt begins with "negative_"
    "text": "prompt_embeds",
    "encoder_hidden_states": "prompt_embeds",
    "pooled_text": "pooled_prompt_embeds",
}


@dataclass(frozen=True)
class Case:
    """A family's folder, the pipeline that runs it, the `side` of the picture of its latent, further arguments of
    the pipeline, and the conditions `shared` by the branches.
    """

    family: str
    pipeline: str
    side: int
    call: dict[str, Any]
    shared: dict[str, Any]


CONTROL = np.random.default_rng(1).uniform(0, 1, (2, 3, 16, 16)).astype(np.float32)
ADAPTED = {"control": CONTROL, "control_scale": [0.7, 0.7]}
CONTROLLED = {"controlnet_cond": CONTROL, "conditioning_scale": [0.7, 0.7]}
WEIGHTED = {"guidance_scale": WEIGHT}
CASES = [
    Case("unet_2d_condition", "StableDiffusionPipeline", 64, WEIGHTED, {}),
    Case("sdxl", "StableDiffusionXLPipeline", 64, WEIGHTED, {}),
    Case(
        "controlnet",
        "StableDiffusionControlNetPipeline",
        16,
        WEIGHTED | {"image": torch.from_numpy(CONTROL), "controlnet_conditioning_scale": 0.7},
        CONTROLLED,
    ),
    Case(
        "t2i_adapter",
        "StableDiffusionAdapterPipeline",
        16,
        WEIGHTED | {"image": torch.from_numpy(CONTROL), "adapter_conditioning_scale": 0.7},
        ADAPTED,
    ),
    Case("flux", "FluxPipeline", 16, {"guidance_scale": 4.0, "true_cfg_scale": WEIGHT}, {"guidance": [4.0, 4.0]}),
]


@pytest.mark.parametrize("case", CASES, ids=[case.family for case in CASES])
def test_a_bundle_samples_as_the_pipeline_does(
    case: Case, family_bundle: Callable[[str], Exported], record_property: Callable[[str, object], None]
) -> None:
    torch.set_num_threads(1)
    made = family_bundle(case.family)
    folder = Path(str(made.source))
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


@pytest.mark.parametrize(("family", "component"), [("dit", "transformer"), ("unet_1d", "unet")])
def test_a_bundle_without_text_samples_as_the_schedulers_loop_does(
    family: str,
    component: str,
    family_bundle: Callable[[str], Exported],
    record_property: Callable[[str, object], None],
) -> None:
    """DiT's own pipeline takes label 1000 for none, whatever the network's null label."""
    torch.set_num_threads(1)
    made = family_bundle(family)
    folder = Path(str(made.source))
    with load(made.bundle) as sampler:
        manifest = sampler.bundle.manifest
        labels = {each.name: [1, 2] for each in manifest.conditions}
        found = sampler.sample(f"scheduler:{STEPS}", SEEDS, labels, WEIGHT if labels else None)
    x = torch.from_numpy(np.stack([noise.normal(seed, 0, manifest.x_shape) for seed in SEEDS]))
    network, scheduler = load_component(folder, component), load_scheduler(folder)
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            if labels:
                given, none = torch.tensor([1, 2]), torch.full((2,), 5)
                eps, unled = (network(x, t.expand(2), each).sample[:, : x.shape[1]] for each in (given, none))
                eps = unled + WEIGHT * (eps - unled)
            else:
                eps = network(x, t).sample
            x = scheduler.step(eps, t, x).prev_sample
    expected = x.numpy()
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    record_property("relative", float(relative))
    assert relative <= 1e-3


def drawn(conditions: tuple[Condition, ...], rng: np.random.Generator) -> Arrays:
    """Return values for two samples of conditions that differ between branches."""
    values = {}
    for each in conditions:
        if not each.shared:
            values[each.name] = rng.standard_normal((2, *each.shape)).astype(np.float32)
    return values


def run(case: Case, folder: Path, x: torch.Tensor, positive: Arrays, negative: Arrays) -> Array:
    """Return the pipeline's own samples, with the folder's networks and scheduler."""
    pipeline = open_pipeline(case, folder)
    prompts = {name: torch.from_numpy(values) for name, values in name_values(positive).items()}
    prompts |= {f"negative_{name}": torch.from_numpy(values) for name, values in name_values(negative).items()}
    if case.family == "flux":
        x = pipeline._pack_latents(x, *x.shape)
    size = {"height": case.side, "width": case.side, "num_inference_steps": STEPS}
    with torch.no_grad():
        made = pipeline(latents=x, output_type="latent", return_dict=False, **size, **prompts, **case.call)[0]
    if case.family == "flux":
        made = pipeline._unpack_latents(made, case.side, case.side, pipeline.vae_scale_factor)
    result: Array = made.numpy()
    return result


def open_pipeline(case: Case, folder: Path) -> Any:
    """Open the pipeline with the components of the folder. If its pictures are tiny, a stand-in for the autoencoder
    gives their size.
    """
    kind: Any = getattr(diffusers, case.pipeline)
    names, optional = kind._get_signature_keys(kind)
    parts: dict[str, Any] = dict.fromkeys(names)
    for name in set(names) & set(NETWORKS):
        parts[name] = load_component(folder, name)
    parts["scheduler"] = load_scheduler(folder)
    if case.side == 16:
        down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
        parts["vae"] = diffusers.AutoencoderKL(3, 3, down, up, block_out_channels=(4, 4), norm_num_groups=2)
    if "requires_safety_checker" in optional:
        parts["requires_safety_checker"] = False
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_component(folder: Path, component: str) -> Any:
    config = json.loads((folder / component / "config.json").read_text())
    return getattr(diffusers, config["_class_name"]).from_pretrained(folder / component).eval()


def load_scheduler(folder: Path) -> Any:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return getattr(diffusers, config["_class_name"]).from_config(config)


def name_values(values: Arrays) -> Arrays:
    return {ARGUMENTS[name]: array for name, array in values.items()}
