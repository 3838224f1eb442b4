"""A run with light steps in one file: the samples of the runtime."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import LIGHT
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses

PLAN = "dpmpp_2m:6+every(interval=3)"
LABELS = np.array([0, 1, 2])


@pytest.fixture(scope="module")
def int8_bundle(exported_light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = shutil.copytree(exported_light, tmp_path_factory.mktemp("light") / "bundle")
    calibrate(CalibrateOptions(bundle, PLAN, target=("cpu-x86",), trajectories=4, guidance=2.0))
    return bundle


@pytest.mark.parametrize(
    ("precision", "plan", "guidance", "unroll"),
    [
        ("float32", PLAN, 2.0, False),
        ("float32", "dpmpp_2m:6+light(at=[2, 4, 5], linear=True)", 2.0, True),
        ("float32", "dpmpp_2m:6+every(interval=6)", Cfg(2.0, (-20.0, 0.0)), False),  # the last steps have one branch
        ("int8", PLAN, 2.0, False),
        ("int8", PLAN, 2.0, True),
    ],
)
def test_a_baked_file_has_the_samples_of_the_runtime(
    int8_bundle: Path, tmp_path: Path, precision: str, plan: str, guidance: float | Cfg, unroll: bool
) -> None:
    file, reference = tmp_path / "run.onnx", parse_plan_text(plan)
    bake(BakeOptions(int8_bundle, reference, file, precision, guidance=guidance, unroll=unroll))
    with load(int8_bundle, precision) as sampler:
        noise = sampler.draws(range(3))(0).astype(np.float32)
        expected = sampler.sample(plan, range(3), {"class": LABELS}, guidance)
    (sample,) = onnxruntime.InferenceSession(file).run(None, {"noise": noise, "class": LABELS})
    np.testing.assert_allclose(sample, expected, atol=1e-5)


def test_a_light_step_is_written_as_the_light_network(int8_bundle: Path, tmp_path: Path) -> None:
    counts = []
    for plan in ("dpmpp_2m:6", PLAN):
        bake(BakeOptions(int8_bundle, parse_plan_text(plan), tmp_path / "run.onnx", "float32", unroll=True))
        counts.append(sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "run.onnx").graph.node))
    assert counts == [6 * 7, 2 * 7 + 4 * 3]  # the light network has 3 of the 7 convolutions


def test_a_run_with_light_steps_has_no_parts(int8_bundle: Path, tmp_path: Path) -> None:
    with refuses("light steps", "bake one file"):
        bake(BakeOptions(int8_bundle, parse_plan_text(PLAN), tmp_path / "parts", "float32", parts=True))


def test_a_plan_file_that_mixes_slots_is_not_baked(int8_bundle: Path, tmp_path: Path) -> None:
    plan = load(int8_bundle).compile(PLAN)
    steps = [
        step if step.network == LIGHT else msgspec.structs.replace(
            step, carry=tuple(msgspec.structs.replace(each, row=(0.0, 0.5)) for each in step.carry))
        for step in plan.steps
    ]  # fmt: skip
    (tmp_path / "mixed.json").write_bytes(encode(msgspec.structs.replace(plan, steps=tuple(steps))))
    with refuses(("'features'", "combines or scales"), "run the bundle"):
        bake(BakeOptions(int8_bundle, parse_plan_text(str(tmp_path / "mixed.json")), tmp_path / "run.onnx"))
