"""Bundles and plans that earlier versions wrote open, and give bitwise the samples that those versions gave.

`schema_1` was written before plans had guidance forms, given tensors and draws, `schema_2` by the last version in which
plans belonged to the runtime. Both hold the bundle of `tests.conftest`, which multiplies and adds only, so its bits
are those of any CPU. `ready_fashion_mnist.npz` has samples of the ready bundle, from an x86 CPU with AVX512-VNNI.
`integers` has a body of `QLinearConv` and `MatMulIntegerToFloat` for cpu-x86, with a row of ranges for each step, and
its samples from such a CPU. `calibrate` made it of `tests.calibration.lowering.bodies.small_body` before the first
release. Its float32 body is left out. `linear_ag` has a plan of a form of guidance that is no longer compiled, for the
bundle of `schema_2`.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fewstep.runtime
from fewstep.models import ready
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Branches
from fewstep.plans.plan import SCHEMA
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.sampling.request import denoiser_facts

HERE = Path(__file__).parent
RUN = {"seeds": [3, 2**40], "condition": {"class": ["dress", "bag"]}, "guidance": 2.0}
CASES = [
    (folder.name, name) for folder in sorted(HERE.glob("schema_*")) for name in np.load(folder / "samples.npz").files
]
PLANS = sorted(HERE.glob("schema_*/plans/*.json"))


def test_there_is_something_to_open() -> None:
    assert len(CASES) == 6 + 8 and len(PLANS) == 3 + 4


@pytest.mark.parametrize("schema, case", CASES)
def test_a_bundle_of_an_earlier_version_gives_its_samples(schema: str, case: str) -> None:
    precision, _, plan = case.partition(" ")
    with fewstep.runtime.load(HERE / schema / "bundle", precision) as sampler:
        np.testing.assert_array_equal(sampler.sample(plan, **RUN), np.load(HERE / schema / "samples.npz")[case])


@pytest.mark.parametrize("file", PLANS, ids=lambda file: f"{file.parts[-3]} {file.stem}")
def test_a_plan_of_an_earlier_version_gives_its_samples(file: Path) -> None:
    plan = decode(file.read_bytes(), file.name)
    folder = file.parents[1]
    with fewstep.runtime.load(folder / "bundle", "float32") as sampler:
        made = sampler.sample(plan, **RUN)
    np.testing.assert_array_equal(made, np.load(folder / "samples.npz")[f"float32 {plan.name}"])


@pytest.mark.parametrize("file", sorted(HERE.glob("schema_2/plans/*.json")), ids=lambda file: file.stem)
def test_a_plan_compiles_to_the_table_of_the_version_before(file: Path) -> None:
    kept = file.read_bytes()
    with fewstep.runtime.load(HERE / "schema_2" / "bundle", "float32") as sampler:
        facts = denoiser_facts(sampler.bundle.manifest)
    now = encode(compile_plan(decode(kept, file.name).name, facts, 2.0))
    assert now == kept.replace(b'{"schema":2', f'{{"schema":{SCHEMA}'.encode())


def test_a_plan_of_a_form_that_is_no_longer_compiled_gives_its_samples() -> None:
    plan = decode((HERE / "linear_ag" / "dpmpp_2m-5.json").read_bytes())
    assert plan.guidance == Branches({"cond": 2.0, "uncond": -1.0}) and decode(encode(plan)) == plan
    with fewstep.runtime.load(HERE / "schema_2" / "bundle", "float32") as sampler:
        made = sampler.sample(plan, RUN["seeds"], RUN["condition"])
    np.testing.assert_array_equal(made, np.load(HERE / "linear_ag" / "samples.npz")[plan.name])


def test_the_ready_bundle_gives_the_samples_that_it_was_shipped_with() -> None:
    kept = np.load(HERE / "ready_fashion_mnist.npz")["x"]
    with fewstep.runtime.load(ready.fashion_mnist(), precision="int8", backend=OnnxRuntime(threads=1)) as sampler:
        made = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition={"class": ["dress", "bag"]}, guidance=2.0)
    assert_same_here(made, kept)


@pytest.mark.parametrize("plan", ["dpmpp_2m:3", "ddim:5"])
def test_a_body_of_integer_kernels_gives_the_samples_that_it_was_made_with(plan: str) -> None:
    kept = np.load(HERE / "integers/samples.npz")[plan]
    with fewstep.runtime.load(HERE / "integers/bundle", "int8", backend=OnnxRuntime(threads=1)) as sampler:
        assert_same_here(sampler.sample(plan, seeds=[3, 2**40]), kept)


def assert_same_here(made: NDArray[np.float32], kept: NDArray[np.float32]) -> None:
    """Bitwise on CPUs like the one that `kept` is from."""
    if "avx512_vnni" in this_cpu().int8_instructions:
        np.testing.assert_array_equal(made, kept)
    else:  # other CPUs round float32 sums in another order, and an 8-bit number may fall to its neighbour
        assert 10 * np.log10(4 / np.square(made - kept).mean()) > 40
