"""The shipped bundle: up to date, small, and with the same samples however it is called."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from fewstep.export.sources.shipped import fashion_mnist
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.models import ready
from fewstep.models.fashion_mnist import unet
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle

PLAN = "dpmpp_2m:8"
SEEDS = range(6)


def test_it_was_made_from_the_weights_that_are_shipped() -> None:
    """`.ci/ready` makes it again."""
    found = open_bundle(ready.fashion_mnist()).manifest.provenance.source_sha256
    assert found == fashion_mnist().sha256
    models = files("fewstep.models")
    parts = ("blocks.py", "fashion_mnist/unet.py", f"fashion_mnist/{unet.WEIGHTS}")
    assert found == hashlib.sha256(b"".join((models / part).read_bytes() for part in parts)).hexdigest()


def test_it_is_whole_small_and_holds_what_a_cpu_runs() -> None:
    found = verify(VerifyOptions(ready.fashion_mnist()))
    assert found.is_whole and not found.unnamed and found.graphs == 3
    assert found.bytes < 6.5e6
    bundle = open_bundle(ready.fashion_mnist())
    bodies = bundle.manifest.bodies
    assert tuple(bodies) == ("int8-cpu-x86", "int8-cpu-arm") and tuple(bundle.manifest.plans) == (f"{PLAN}@arctan",)
    assert bodies["int8-cpu-x86"].graph.data == bodies["int8-cpu-arm"].graph.data  # the weights, once


@pytest.mark.parametrize("cpu", ["x86", "arm"])
def test_each_body_runs_the_fitted_plans(cpu: str) -> None:
    fitted = open_bundle(ready.fashion_mnist()).manifest.fitted
    assert sorted(entry.evaluations for entry in fitted) == [4, 5, 6, 8, 10]
    with load(ready.fashion_mnist(), body=f"int8-cpu-{cpu}") as sampler:
        for entry in fitted:
            assert len(sampler.compile(f"fitted:{entry.evaluations}", 2.0).steps) == entry.evaluations


def test_six_lines_sample_it_without_torch() -> None:
    lines = (ready.__doc__ or "").partition("\n\n")[2]
    code = f"{lines}\nimport sys\nassert 'torch' not in sys.modules and 'onnx' not in sys.modules\nprint(x.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(2, 1, 28, 28)\n", done.stderr


@pytest.fixture(params=["int8-cpu-x86", pytest.param("float32", marks=pytest.mark.slow)])
def sampler(request: pytest.FixtureRequest) -> Iterator[Sampler]:
    is_ready = request.param != "float32"
    bundle: Path = ready.fashion_mnist() if is_ready else request.getfixturevalue("exported_fashion_mnist")
    with load(bundle, body=request.param, backend=OnnxRuntime(threads=1)) as opened:
        yield opened


def draw(sampler: Sampler, seeds: range, plan: str, guidance: float | None) -> np.ndarray:
    condition = held_out_conditions(sampler.bundle.manifest, seeds)
    return sampler.sample(plan, seeds, condition, guidance)


@pytest.mark.parametrize(
    ("plan", "guidance"), [pytest.param("dpmpp_2m:3", 2.0, marks=pytest.mark.slow), ("ddim:1", None)]
)
def test_a_sample_is_bitwise_the_same_alone_and_in_any_batch(
    sampler: Sampler, plan: str, guidance: float | None
) -> None:
    alone = [draw(sampler, SEEDS[i : i + 1], plan, guidance)[0] for i in SEEDS]
    for batch in (2, 5, 6):
        together = np.concatenate(
            [draw(sampler, SEEDS[i : i + batch], plan, guidance) for i in range(0, len(SEEDS), batch)]
        )
        np.testing.assert_array_equal(together, alone)


def test_both_bodies_give_bitwise_the_same_samples() -> None:
    """On every CPU, since x86 CPUs without VNNI add 8-bit products in 32 bits."""
    bodies = [load(ready.fashion_mnist(), body=f"int8-cpu-{cpu}") for cpu in ("x86", "arm")]
    x86, arm = (draw(body, range(1), "ddim:2", 2.0) for body in bodies)
    np.testing.assert_array_equal(x86, arm)
