"""A bundle of several networks in one file: the samples of the runtime."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.plan import DENOISER, LIGHT
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundle_of_experts import EDGE
from tests.bundles import change_bundle
from tests.export.networks import gaussian_denoisers


@pytest.fixture(scope="module")
def int8_bundle(layers_of_experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = shutil.copytree(layers_of_experts, tmp_path_factory.mktemp("experts") / "bundle")
    calibrate(CalibrateOptions(bundle, "dpmpp_2m:6", target=("cpu-x86",), trajectories=4))
    return bundle


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_baked_file_runs_each_network_on_its_steps(
    int8_bundle: Path, tmp_path: Path, precision: str, unroll: bool
) -> None:
    file = tmp_path / "run.onnx"
    bake(BakeOptions(int8_bundle, "dpmpp_2m:6", file, precision, unroll=unroll))
    with load(int8_bundle, precision) as sampler:
        assert len({step.network for step in sampler.compile("dpmpp_2m:6").steps}) == 2
        noise, expected = sampler.draws(range(3))(0).astype(np.float32), sampler.sample("dpmpp_2m:6", range(3))
    (sample,) = onnxruntime.InferenceSession(file).run(None, {"noise": noise})
    np.testing.assert_array_equal(sample, expected)


def test_an_expert_may_have_the_name_of_the_light_network(layers_of_experts: Path, tmp_path: Path) -> None:
    bundle, file = shutil.copytree(layers_of_experts, tmp_path / "bundle"), tmp_path / "run.onnx"
    change_bundle(bundle, networks={LIGHT: open_bundle(bundle).manifest.networks["noisy"]})
    bake(BakeOptions(bundle, "ddim:6", file))
    with load(bundle) as sampler:
        assert {step.network for step in sampler.compile("ddim:6").steps} == {LIGHT, DENOISER}
        noise, expected = sampler.draws(range(3))(0).astype(np.float32), sampler.sample("ddim:6", range(3))
    (sample,) = onnxruntime.InferenceSession(file).run(None, {"noise": noise})
    np.testing.assert_array_equal(sample, expected)


@pytest.mark.slow
def test_networks_of_other_predictions_share_their_conditions_in_a_file(tmp_path: Path) -> None:
    source, bundle, file = gaussian_denoisers.__file__, tmp_path / "bundle", tmp_path / "run.onnx"
    export(ExportOptions(f"{source}:quiet", bundle, verify="quick", expert=(f"noisy={source}:noisy@{EDGE}",)))
    bake(BakeOptions(bundle, "ddim:6", file, guidance=2.0))
    with load(bundle) as sampler:
        noise = sampler.draws([0, 1])(0).astype(np.float32)
        expected = sampler.sample("ddim:6", [0, 1], {"class": [1, 2]}, guidance=2.0)
    (sample,) = onnxruntime.InferenceSession(file).run(None, {"noise": noise, "class": np.array([1, 2])})
    np.testing.assert_array_equal(sample, expected)
