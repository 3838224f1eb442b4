"""Denoisers with outputs besides the prediction: a depth, the logits of a class, a code of the input picture."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.trace import trace
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal_batch
from fewstep.runtime.sampling.loading import load
from tests.export.networks import named_outputs_denoiser
from tests.export.networks.named_outputs_denoiser import Seeing, spec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    export(ExportOptions(f"{named_outputs_denoiser.__file__}:make", folder / "bundle"))
    return folder / "bundle"


PICTURES = normal_batch([8, 9], 0, (1, 8, 8))


def in_torch(guidance: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Three Euler steps by hand, and the outputs of the last conditional evaluation."""
    network, x, picture = (
        Seeing().eval(),
        torch.from_numpy(normal_batch([1, 2], 0, (1, 8, 8))),
        torch.from_numpy(PICTURES),
    )
    named: list[np.ndarray] = []
    for i in range(3):
        with torch.no_grad():
            time = torch.full((2,), 1000 * (1 - i / 3))
            v, *further = network(x, time, picture)
            away = network(x, time, torch.zeros_like(picture))[0]
        x, named = x - (away + guidance * (v - away)) / 3, [each.numpy() for each in further]
    return x.numpy(), named


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_run_leaves_the_outputs_of_its_last_conditional_evaluation(bundle: Path, guidance: float) -> None:
    sampler, (expected, named) = load(bundle), in_torch(guidance)
    asked = ("euler:3@trailing", [1, 2], {"picture": PICTURES}, guidance)
    x, left = sampler.carry_on(*asked)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert {name: tensor.shape for name, tensor in left.named.items()} == {
        "depth": (2, 1, 4, 4), "logits": (2, 3), "code": (2, 5)
    }  # fmt: skip
    for name, tensor in zip(("depth", "logits", "code"), named, strict=True):
        np.testing.assert_allclose(left.named[name], tensor, atol=1e-5)
    np.testing.assert_array_equal(sampler.sample(*asked), x)
    *_, last = sampler.steps(*asked)
    np.testing.assert_array_equal(last.slots.select_samples([1]).named["depth"], left.named["depth"][1:])


def test_the_lowering_reaches_them(bundle: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, picture=normal_batch(range(4), 1, (1, 8, 8)))
    calibrate(CalibrateOptions(bundle, "euler:3@trailing", ("cpu-x86",), 4, conditions=rows))
    asked = ("euler:3@trailing", [1, 2], {"picture": PICTURES})
    with load(bundle) as exact, load(bundle, "int8") as lowered:
        coverage = lowered.bundle.manifest.bodies["int8-cpu-x86"].graph.coverage
        assert coverage is not None  # of the inner layers the depth's is one; its last stays float, as the prediction's
        assert coverage.int8_ops == ("conv2d_1_product", "conv2d_3_product")
        (_, exact_left), (_, left) = exact.carry_on(*asked), lowered.carry_on(*asked)
    for name in ("depth", "logits", "code"):
        own, others = left.named[name], exact_left.named[name]
        assert np.linalg.norm(own - others) < 0.1 * np.linalg.norm(others)


def test_run_writes_them_next_to_the_samples(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", PICTURES)
    file = tmp_path / "samples.npy"
    asked = (f"picture=@{tmp_path / 'pictures.npy'}",)
    run(RunOptions(bundle, "euler:3@trailing", samples=2, guidance=1.0, condition=asked, seed=1, output=file))
    expected = load(bundle).carry_on("euler:3@trailing", [1, 2], {"picture": PICTURES}, 1.0)[1].named
    for name in ("depth", "logits", "code"):
        np.testing.assert_array_equal(np.load(tmp_path / f"samples.{name}.npy"), expected[name])


def test_a_baked_file_has_the_sample_alone(bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(bundle, "euler:3@trailing", tmp_path / "baked.onnx", guidance=1.0))
    session = onnxruntime.InferenceSession(tmp_path / "baked.onnx", providers=["CPUExecutionProvider"])
    fed = {"noise": normal_batch([1, 2], 0, (1, 8, 8)), "picture": PICTURES}
    (x,) = session.run(None, fed)
    np.testing.assert_allclose(x, in_torch(1.0)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda made: made[0], "should return depth, logits, code in addition to its prediction, but returned Tensor"),
        (lambda made: (*made[:3], made[3][:, :4]), r"returned 'code' as \[3, 4\] of torch.float32, not \[3, 5\]"),
    ],
)
def test_a_module_that_returns_something_else_is_refused(changed, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trace(Seeing(changed), spec())
