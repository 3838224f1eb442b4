"""A self-conditioned network from its module to samples, tiles, fits and baked files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import fewstep.runtime
from fewstep.export import Carried, Positions, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.fitting.fit import FitOptions, fit
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans import noise
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.runtime.kinds.sample_space import Vocabulary
from fewstep.runtime.runs import Tiles, sample_tiles
from fewstep.runtime.sampling.request import denoiser_facts
from tests.families.self_condition import make
from tests.graph.bake.run_baked import run_file

pytestmark = pytest.mark.slow

SEEDS, LABELS = [3, 4, 5], [0, 3, 1]
FLOW = ScheduleSpec("flow", timesteps=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("self_condition") / "bundle"
    export(ExportOptions(source="tests/families/self_condition.py:make", output=made))
    return made


@torch.no_grad()
def loop(plan, weight: float, limit: float) -> np.ndarray:
    """DDIM as in ddim_sample of denoising-diffusion-pytorch, with guidance as in pix2seq (the authors of Analog Bits):
    both branches receive the guided x0."""
    module, spec = make()
    schedule = NoiseSchedule(spec.schedule)
    times = [schedule.time(step.time) for step in plan.steps]
    x = torch.from_numpy(noise.normal_batch(SEEDS, 0, spec.x_shape)) * times[0].sigma
    label, null = torch.tensor(LABELS), torch.full((len(LABELS),), 4)
    x0 = torch.zeros_like(x)
    for s, t in zip(times, [*times[1:], None], strict=True):
        seen, time = torch.cat([x, x0], dim=1), torch.full((len(x),), s.network)
        cond, uncond = (module.eval()(seen, time, each) for each in (label, null))
        v = uncond + weight * (cond - uncond)
        x0 = (s.alpha * x - s.sigma * v).clamp(-limit, limit)
        x = x0 if t is None else t.alpha * x0 + t.sigma * (x - s.alpha * x0) / s.sigma
    return x.numpy()


def test_samples_are_those_of_the_published_loop(bundle):
    with fewstep.runtime.load(bundle) as sampler:
        plan = compile_plan("ddim:4@leading", denoiser_facts(sampler.bundle.manifest), 2.5, Clip(-1, 1))
        found = sampler.sample(plan, SEEDS, {"class": LABELS})
    np.testing.assert_allclose(found, loop(plan, 2.5, 1.0), atol=2e-5)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name, guidance", [("ddim:4", 2.0), ("dpmpp_2m:3", None), ("heun:2", 2.0)])
def test_baked_file(bundle, tmp_path, name, guidance, unroll):
    options = BakeOptions(bundle=bundle, plan=name, guidance=guidance, output=tmp_path / "run.onnx", unroll=unroll)
    bake(options)
    with fewstep.runtime.load(bundle) as sampler:
        expected = sampler.sample(name, SEEDS, {"class": LABELS}, guidance)
    found = run_file(options.output, SEEDS, **{"class": LABELS})
    if unroll:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


def test_sample_each(bundle):
    """Runs of other lengths that share calls receive their own x0."""
    with fewstep.runtime.load(bundle) as sampler:
        together = sampler.sample_each(["ddim:2", "ddim:4", "ddim:4"], SEEDS, {"class": LABELS})
        apart = [
            sampler.sample(name, [seed], {"class": [label]})
            for name, seed, label in zip(["ddim:2", "ddim:4", "ddim:4"], SEEDS, LABELS, strict=True)
        ]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-5)


def test_tiles(bundle):
    """One window of the whole size gives the sample without windows."""
    with fewstep.runtime.load(bundle) as sampler:
        found = sample_tiles(sampler, "ddim:3", (2, 8, 8), Tiles(overlap=4), SEEDS, condition={"class": LABELS})
        wide = sample_tiles(sampler, "ddim:3", (2, 8, 12), Tiles(overlap=4), SEEDS, condition={"class": LABELS})
        np.testing.assert_allclose(found, sampler.sample("ddim:3", SEEDS, {"class": LABELS}), atol=1e-5)
    assert wide.shape == (3, 2, 8, 12)


def test_bare_network_receives_zeros(bundle):
    module, _ = make()
    x = np.random.default_rng(0).standard_normal((3, 2, 8, 8)).astype(np.float32)
    with fewstep.runtime.load(bundle) as sampler:
        found = sampler.evaluate(x, 500, {"class": LABELS})
    seen = torch.from_numpy(np.concatenate([x, np.zeros_like(x)], axis=1))
    with torch.no_grad():
        expected = module.eval()(seen, torch.full((3,), 500.0), torch.tensor(LABELS)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_plan_of_another_denoiser_is_refused(bundle):
    with fewstep.runtime.load(bundle) as sampler:
        plan = compile_plan("ddim:4", replace(denoiser_facts(sampler.bundle.manifest), self_condition=False))
        with pytest.raises(UserError, match="does not feed its last x0 to the network"):
            sampler.sample(plan, SEEDS, {"class": LABELS})


def test_fit_is_refused(bundle):
    with pytest.raises(UserError, match="takes its last prediction of x0"):
        fit(FitOptions(bundle=bundle, steps=4))


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"vocabulary": Vocabulary(size=5, mask=4), "prediction": "logits"}, "a vocabulary"),
        ({"positions": Positions(axis=1, leaves=2)}, "a time for each position"),
        ({"carried": (Carried("past", (2,), bank="sample"),)}, "carried tensors of the sample"),
        ({"sizes": [{"name": "rows", "axis": 0, "low": 2, "high": 8}]}, "a free first axis"),
    ],
)
def test_combinations_without_a_meaning(fields, reason):
    given = {"prediction": "flow", **fields}
    with pytest.raises(UserError, match=f"'self_condition'.*it cannot be combined with {reason}"):
        Spec("both", (2, 8), (), schedule=FLOW, self_condition=True, **given)


def test_onnx_file(bundle, tmp_path):
    """The x of such a file also has both parts."""
    module, _ = make()
    file, spec = tmp_path / "net.onnx", tmp_path / "spec.json"
    example = (torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        module.eval(), example, str(file), input_names=["x", "time", "label"], output_names=["output"], dynamo=True,
        dynamic_shapes=[{0: batch}] * 3,
    )  # fmt: skip
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[1].dim_value == 4
    spec.write_text(
        '{"name": "net", "x_shape": [2, 8, 8], "prediction": "v", "schedule": {"kind": "cosine"},'
        ' "conditions": [{"name": "class", "input": "label", "null": 4, "low": 0, "high": 3}], "self_condition": true}'
    )
    export(ExportOptions(source=str(file), output=tmp_path / "bundle", spec=spec))
    with fewstep.runtime.load(tmp_path / "bundle") as sampler, fewstep.runtime.load(bundle) as own:
        found = sampler.sample("ddim:3", SEEDS, {"class": LABELS}, 2.0)
        np.testing.assert_allclose(found, own.sample("ddim:3", SEEDS, {"class": LABELS}, 2.0), atol=1e-5)
