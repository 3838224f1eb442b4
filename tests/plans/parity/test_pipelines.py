"""The times of diffusers' pipelines, from their own code: the network's time at each step."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.plans.configs import classes as schedulers
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINES, PipelineRules
from tests.plans.parity.pipelines import X_SHAPE, network_times
from tests.plans.parity.sampler_tables import assert_same_rows, extract, unroll

diffusers = pytest.importorskip("diffusers")
IMAGE_TO_IMAGE = (
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxFillPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
)
FROM_NOISE = ("FluxControlPipeline", "FluxKontextPipeline", "FluxPipeline", "StableDiffusion3Pipeline")


def our_times(scheduler: Any, pipeline: str, steps: int, strength: float | None = None) -> list[float]:
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    plan = plan_from_scheduler_config(config, steps=steps, pipeline=pipeline, x_shape=X_SHAPE, strength=strength)
    return [step.time for step in plan.steps]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("name", "strength"),
    [(name, None) for name in FROM_NOISE] + [(name, strength) for name in IMAGE_TO_IMAGE for strength in (1.0, 0.6)],
)
def test_the_network_receives_the_times_of_the_pipeline(name: str, strength: float | None, dynamic: bool) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    for steps in (4, 7):
        expected = network_times(name, scheduler, steps, strength)
        np.testing.assert_allclose(our_times(scheduler, name, steps, strength), expected, rtol=2e-6)


def test_schnell_inpaints_at_even_times() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert our_times(scheduler, "FluxInpaintPipeline", 4) == [1000, 750, 500, 250]
    assert network_times("FluxInpaintPipeline", scheduler, 4, 1.0) == [1000, 750, 500, 250]


@pytest.mark.parametrize("name", ["FluxPipeline", "FluxInpaintPipeline", "StableDiffusion3Pipeline"])
def test_the_lcm_scheduler_of_flows_takes_what_eulers_takes(name: str) -> None:
    scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0, use_dynamic_shifting=True)
    expected = network_times(name, scheduler, 4, 1.0 if "Inpaint" in name else None)
    np.testing.assert_allclose(our_times(scheduler, name, 4), expected, rtol=2e-6)


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_a_solver_in_lambda_takes_the_mu_of_the_pipeline(name: str) -> None:
    """These configs have no max_shift: FLUX then takes 1.15, and Stable Diffusion 3 takes 1.16."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, use_dynamic_shifting=True
    )
    expected = network_times(name, scheduler, 5, None)
    np.testing.assert_allclose(our_times(scheduler, name, 5), expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("pipeline", "eta"),
    [("StableDiffusionPipeline", 0.0), ("StableDiffusionXLPipeline", 0.0), ("KandinskyV22Pipeline", 0.3), (None, 0.3)],
)
def test_tcd_has_the_eta_that_the_pipeline_passes(pipeline: str | None, eta: float) -> None:
    """If a pipeline passes no eta, the scheduler keeps its own."""
    scheduler = diffusers.TCDScheduler()
    config = {**scheduler.config, "_class_name": "TCDScheduler", "steps_offset": 1}
    plan = plan_from_scheduler_config(config, steps=4, pipeline=pipeline)
    assert_same_rows(unroll(plan), extract(scheduler, 4, eta=eta))
    given = plan_from_scheduler_config(config, steps=4, pipeline=pipeline, arguments={"eta": 0.7})
    assert_same_rows(unroll(given), extract(scheduler, 4, eta=0.7))


@pytest.mark.parametrize(("pipeline", "theirs"), [("DDIMPipeline", "DDIM"), ("PNDMPipeline", "PNDM")])
def test_a_pipeline_makes_its_own_scheduler_of_any_other(pipeline: str, theirs: str) -> None:
    found = diffusers.DDPMScheduler(beta_end=0.01, timestep_spacing="leading", steps_offset=1)
    network = diffusers.UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4
    )
    scheduler = getattr(diffusers, pipeline)(network, found).scheduler
    assert type(scheduler).__name__ == f"{theirs}Scheduler"
    scheduler.set_timesteps(7)
    assert our_times(found, pipeline, 7) == list(scheduler.timesteps)


# -- every pipeline of diffusers with a network that fewstep knows

OF_UNIT = ("DDIM", "PNDM", "StableDiffusion3")  # pipelines whose schedulers all ask for noise of deviation 1
ETA = re.compile(r"\beta: [^,=]+=0(?:\.0)?\b")  # as `ast.unparse` writes a default
CHANGES = re.compile(r"new_config\[.(steps_offset|clip_sample|skip_prk_steps).\] = (\S+)")
OWN_SCHEDULER = re.compile(r"scheduler = (\w+Scheduler)\.from_config\(scheduler\.config\)")


def sources() -> Iterator[tuple[str, str]]:
    """Return each class of a pipeline and its source in the installed diffusers, without importing it."""
    for file in sorted((Path(inspect.getfile(diffusers)).parent / "pipelines").rglob("*.py")):
        text = file.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and "Pipeline" in node.name and not node.name.endswith("Output"):
                yield node.name, ast.unparse(node)


def rules_of(source: str) -> PipelineRules:
    """Return the rules that the source of a pipeline shows."""
    changes: dict[str, Any] = {field: value == "True" or value == "1" for field, value in CHANGES.findall(source)}
    if made := OWN_SCHEDULER.search(source):
        changes["_class_name"] = made[1]
    has_own_limit = "'max_shift', 1.16" in source
    return PipelineRules(
        changes={name: int(value) if name == "steps_offset" else value for name, value in changes.items()},
        even="sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)" in source,
        own_flow_sigmas="scheduler.config.use_flow_sigmas" in source,
        patch=2 if "mu = calculate_shift(" in source else None,
        max_shift=1.16 if has_own_limit else 1.15,
        shortens="original_inference_steps=original_inference_steps" in source,
        rounds_up="int(max(num_inference_steps - init_timestep, 0))" in source,
        unit_noise=not re.search("init_noise_sigma|def get_timesteps", source),
        passes_eta="self.prepare_extra_step_kwargs(generator, eta)" in source or "extra_kwargs['eta'] = eta" in source,
    )


@pytest.mark.slow
def test_rules_are_those_that_the_source_of_each_pipeline_shows() -> None:
    """A pipeline without a strength rounds like its family."""
    found = dict(sources())
    checked = {name: rules for name, rules in PIPELINES.items() if name in found}
    assert len(checked) == len(PIPELINES)
    for name, rules in checked.items():
        shown = rules_of(found[name])
        has_strength = "def get_timesteps" in found[name]
        ours = {**vars(rules), "changes": dict(rules.changes)}
        theirs = {**vars(shown), "rounds_up": shown.rounds_up if has_strength else rules.rounds_up}
        if rules.even or "CombinedPipeline" in name or name.startswith(OF_UNIT):
            theirs["unit_noise"] = False
        assert ours == theirs, name
        assert not rules.passes_eta or ETA.search(found[name]), name


def test_schedulers_that_scale_x_are_those_of_diffusers() -> None:
    """Those of torchsde cannot be made without it."""
    of_torchsde, scaled = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}, set()
    for name in schedulers.CLASSES.keys() - of_torchsde:
        made = getattr(diffusers, name)()
        if getattr(made, "init_noise_sigma", 1.0) != 1.0:
            scaled.add(name)
    assert scaled == {name for name, kind in schedulers.CLASSES.items() if kind.scales_x} - of_torchsde
