"""The sampler, compared with the same arithmetic in numpy, and invalid requests of every kind."""

import tracemalloc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans import noise
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.guidance import Branches
from fewstep.plans.plan import Step
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime import AllSteps, Hold, UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.described_cpu import NO_VNNI, VNNI, describe_cpu
from tests.plans.execute_plan import sample
from tests.refusals import refuses

X_SHAPE = (1, 4, 4)
LABEL_SHIFT = np.array([0.1, 0.2, 0.3, 0.0], np.float32)  # of the tiny bundle: v = x / 2 + shift[label] + time / 1000
GROUP_SCALE = np.array([0.5, 0.25], np.float32)  # of its "int8" body, for lambda below and above 0
GROUP_EDGE = 0.0
DENOISING = DenoiserFacts(ScheduleSpec("cosine", timesteps=100), "v")


def by_hand(
    plan: str, seeds: list[int], labels: list[int], guidance: float | None, scales: Sequence[float] = (1.0, 1.0)
) -> np.ndarray:
    """Return the samples of the tiny bundle's denoiser along a plan, in numpy; `scales` multiply its output in two
    range groups.
    """

    def network(index: int, step: Step, u: np.ndarray) -> list[np.ndarray]:
        outputs = []
        for branch in step.branches:
            shift = LABEL_SHIFT[labels if branch == "cond" else [3] * len(labels)]
            v = u / 2 + (shift + np.float32(step.time) * np.float32(1e-3))[:, None, None, None]
            outputs.append(v * np.float32(scales[step.group]))
        return outputs

    compiled = compile_plan(plan, DENOISING, guidance, groups=(GROUP_EDGE,))
    assert {step.group for step in compiled.steps} == {0, 1}
    return sample(compiled, network, lambda draw: np.stack([noise.normal(seed, draw, X_SHAPE) for seed in seeds]))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("plan", ["ddim:5", "heun:4", "dpmpp_2m:8"])
def test_samples_are_those_of_the_plan(tiny_bundle: Path, precision: str, guidance: float | None, plan: str) -> None:
    """The last label is the null value, an ordinary condition."""
    seeds, labels = [3, 7, 0], [0, 2, 3]
    with fewstep.runtime.load(tiny_bundle, precision) as sampler:
        x = sampler.sample(plan, seeds, {"class": labels}, guidance)
    assert x.dtype == np.float32 and x.shape == (3, *X_SHAPE)
    scales = GROUP_SCALE if precision == "int8" else (1.0, 1.0)
    np.testing.assert_allclose(x, by_hand(plan, seeds, labels, guidance, scales), rtol=1e-5, atol=1e-6)


def test_a_sample_is_the_same_alone_and_in_any_batch(tiny_bundle: Path) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    together = sampler.sample(seeds=range(9), condition={"class": [0, 1, 2] * 3}, guidance=2.0)
    for seed in range(9):
        alone = sampler.sample(seeds=[seed], condition={"class": [seed % 3]}, guidance=2.0)
        np.testing.assert_array_equal(alone[0], together[seed])


def test_a_name_a_plan_and_a_plan_file_are_the_same(tiny_bundle: Path, tmp_path: Path) -> None:
    plan = compile_plan("dpmpp_2m:6", DENOISING, 2.0)  # knows nothing of the body's groups
    file = tmp_path / "plan.json"
    file.write_bytes(encode(plan))
    with fewstep.runtime.load(tiny_bundle, "int8") as sampler:
        first, *others = [
            sampler.sample(given, seeds=[1], condition={"class": ["Dress"]}, guidance=guidance)
            for given, guidance in [("dpmpp_2m:6", 2.0), (plan, None), (plan, 2.0), (file, None), (str(file), None)]
        ]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_rows_are_dealt_out_step_by_step(tiny_bundle: Path) -> None:
    """100 steps share one condition: 4 MB of rows, which for 64 samples at once would be 256 MB."""

    def prologue(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"row": np.ones((len(feeds["time"]), 10_000), np.float32)}

    def denoiser(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"v": feeds["x"] * feeds["row"][:, :1, None, None]}

    sampler = fewstep.runtime.load(tiny_bundle).with_network_parts(prologue=prologue, graph=denoiser)
    tracemalloc.start()
    sampler.sample("ddim:100", seeds=range(64), condition={"class": [0] * 64})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_steps_shows_each_evaluation_and_ends_with_the_sample(tiny_bundle: Path) -> None:
    with fewstep.runtime.load(tiny_bundle) as sampler:
        states = list(sampler.steps("ddim:5", seeds=[0], condition={"class": [1]}))
    assert [state.index for state in states] == [0, 1, 2, 3, 4]
    assert all(state.x0.shape == (1, *X_SHAPE) for state in states)


def test_threads_share_a_sampler(tiny_bundle: Path) -> None:
    with fewstep.runtime.load(tiny_bundle) as sampler, ThreadPoolExecutor(8) as pool:

        def draw(seed: int) -> np.ndarray:
            return sampler.sample("ddim:4", seeds=[seed], condition={"class": [0]})

        for seed, x in enumerate(pool.map(draw, range(40))):
            np.testing.assert_array_equal(x, draw(seed))


PICTURE, AVOID = np.zeros((1, *X_SHAPE), np.float32), Branches({"cond": 2.0, "avoid": -1.0})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"plan": "dpmpp_9m:8"}, "unknown solver 'dpmpp_9m'"),
        ({"plan": "ddim"}, "does not have a number of steps"),
        ({"plan": "ddim:101"}, "101 steps on schedule cosine-100"),
        ({"plan": "ddim:0"}, "0 steps"),
        ({"plan": "ddim:-3"}, "number of steps that is a positive integer"),
        ({"plan": 4}, "plan 4 is not a plan"),
        ({"guidance": "2"}, "guidance '2' is not a finite number"),
        ({"guidance": 10**400}, "is not a finite number"),
        ({"condition": 3}, "condition 3 is not a mapping"),
        ({"plan": "nowhere.json"}, "there is no plan file nowhere.json"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [-1]}, "seed -1"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"seeds": range(10**12)}, "more than 1048576 seeds"),
        ({"condition": {}}, "condition 'class' is missing; give 0 shirt, 1 dress, 2 bag"),
        ({"condition": {"class": [1], "text": ["a"]}}, "unknown condition 'text'; it takes 'class'"),
        ({"condition": {"class": [1, 2]}}, "has 2 values for 1 sample; give one value for each sample"),
        ({"condition": {"class": [4]}}, "4 is out of range; give 0 shirt"),
        ({"condition": {"class": [-1]}}, "-1 is out of range"),
        ({"condition": {"class": ["hat"]}}, "unknown value 'hat'; give 0 shirt"),
        ({"condition": {"class": [1.5]}}, "1.5 is not a whole number of type int64"),
        ({"seeds": [0, 1], "condition": {"class": [0, 1.5]}}, "1.5 is not a whole number of type int64"),
        ({"condition": {"class": [None]}}, "condition 'class' holds None; give 0 shirt"),
        ({"condition": {"class": [[1, 2]]}}, "one value has the shape [2]"),
        ({"condition": {"class": 1}}, "not one value per sample"),
        ({"condition": {"class": "dress"}}, "not one value per sample"),
        ({"condition": {"class": {0: 1}}}, "not one value per sample"),
        ({"condition": {"class": {1}}}, "not one value per sample"),
        ({"condition": {"class": b"\x01"}}, "not one value per sample"),
        ({"seeds": [True]}, "are not a list of whole numbers"),
        ({"seeds": np.array(0)}, "are not a list of whole numbers"),
        ({"seeds": {0: 1}}, "are not a list of whole numbers"),
        ({"seeds": {0}}, "are not a list of whole numbers"),
        ({"seeds": b"0"}, "are not a list of whole numbers"),
        ({"guidance": float("nan")}, "guidance nan"),
        ({"plan": "a" * 5000 + ".json"}, "cannot be read (File name too long)"),
        ({"plans": []}, "0 plans for 1 seeds"),
        ({"plan": "scheduler:4"}, "has no scheduler"),
        ({"plan": "scheduler:4", "shaping": Clip(-1, 1)}, "plan 'scheduler:4' takes no clip or other shaping"),
        ({"plan": "scheduler:4", "renoise": 0.5}, "plan 'scheduler:4' takes no renoise; leave it out"),
        ({"strength": True}, "strength True is not in (0, 1]"),
        ({"strength": "half"}, "strength 'half' is not in (0, 1]"),
        ({"shaping": "clip"}, "'clip' is not a shaping"),
        ({"plan": ["ddim:4"]}, "plan ['ddim:4'] is not a plan; call `sample_each`, which takes a plan for each sample"),
        ({"given": [0.0]}, "`given` must map names to arrays, but it is of type list"),
        ({"given": {"image": 1e300}, "strength": 0.5}, "given 'image' holds a number that is not finite"),
        ({"hold": (0.0, 1.0)}, "hold is tuple, not Hold"),
        ({"hold": Hold("much", 1)}, "the value to hold is not an array of numbers ('much')"),
        ({"cancel": True}, "cancel True is not an event or function"),
        ({"branches": "negative"}, "branches 'negative' is not a mapping"),
        ({"guidance": 2.0, "branches": {"uncond": None}}, "branch 'uncond' is None, not a mapping"),
        ({"guidance": 2.0, "branches": {"unkond": {"class": [1]}}}, "branches sets 'unkond', which the plan does not"),
        ({"guidance": 2.0, "branches": {"uncond": {}}}, "branch 'uncond' sets no condition, so it equals the branch"),
        ({"strength": 0.5}, "the plan starts from 'image'"),
        ({"given": {"image": PICTURE}}, "the plan does not take 'image'; it takes none; give a strength"),
        ({"hold": Hold(PICTURE, 2)}, "the mask of hold ranges from 2 to 2"),
        ({"hold": Hold((PICTURE,) * 4, 1)}, "hold has 4 values for 8 steps; give a tuple of 9"),
        ({"guidance": AVOID}, "a branch 'avoid' whose conditions are not given"),
        ({"guidance": AVOID, "branches": {"avoid": {"klass": [1]}}}, "sets unknown condition 'klass'"),
        ({"branches": {"uncond": {"class": [1]}}}, "sets 'uncond', which the plan does not evaluate; give a guidance"),
        ({"guidance": 1e40, "plans": ["ddim:4"]}, "is not finite at step 1 of 4 (time 99)"),
        ({"guidance": 1e40}, "is not finite at step 1 of 8 (time 99) of plan dpmpp_2m:8 with guidance 1e+40"),
    ],
)
def test_what_cannot_be_sampled_is_named(tiny_bundle: Path, arguments: Mapping[str, Any], named: str) -> None:
    defaults = {"seeds": [0], "condition": {"class": [1]}}
    with fewstep.runtime.load(tiny_bundle) as sampler, pytest.raises(UserError) as caught:
        sample = sampler.sample_each if "plans" in arguments else sampler.sample
        sample(**(defaults | arguments))
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "asked", "named"),
    [
        (replace(DENOISING, schedule=ScheduleSpec("linear", timesteps=100)), {}, "is for schedule .* has cosine-100"),
        (replace(DENOISING, prediction="sample"), {}, "predicts sample, but this one predicts v"),
        (DENOISING, {"guidance": 2.0}, "compiled with guidance none, not 2"),
        (DENOISING, {"strength": 0.5}, "compiled with strength None, not 0.5"),
        (DENOISING, {"strength": AllSteps(0.5)}, "compiled with its own first noise, where all its steps begin"),
        (DENOISING, {"renoise": 0.5}, "compiled with renoise None, not 0.5"),
    ],
)
def test_a_plan_of_another_denoiser_or_setting_is_refused(
    tiny_bundle: Path, plan: DenoiserFacts, asked: dict[str, Any], named: str
) -> None:
    with fewstep.runtime.load(tiny_bundle) as sampler, pytest.raises(UserError, match=named):
        sampler.sample(compile_plan("ddim:4", plan), condition={"class": [1]}, **asked)


FOR_OPENVINO, FOR_CPUS, FLOAT = {"int8-openvino": "openvino"}, {"int8-cpu-x86": "cpu-x86"}, {"float32": "portable"}


@pytest.mark.parametrize(
    ("targets", "asked", "named"),
    [
        (FOR_OPENVINO, {"precision": "int8"}, "only int8-openvino; run it on openvino, its target .--backend"),
        (
            FOR_CPUS,
            {"precision": "int8", "backend": TensorRt()},
            "only int8-cpu-x86; run it on onnxruntime, .*--backend",
        ),
        (
            FLOAT,
            {"precision": "float16"},
            "has no float16; .* a backend that has it: onnxruntime-cuda or tensorrt .--backend",
        ),
        (
            FLOAT,
            {"precision": "float16", "backend": OnnxRuntimeCuda()},
            "has no float16 body, only float32; fewstep build .* --backend onnxruntime-cuda --precision float16",
        ),
        (
            FLOAT,
            {"precision": "int8", "backend": OnnxRuntimeCuda()},
            "has no int8; .* a backend that has it: onnxruntime, openvino or tensorrt",
        ),
        (FLOAT, {"precision": "int4"}, "unknown precision 'int4'; choose one of float32, int8"),
        (FLOAT, {"backend": "cuda"}, "is not an inference engine; .* pass one of fewstep.runtime.backends"),
        (FLOAT, {"backend": 1}, "is not an inference engine; .* pass one of fewstep.runtime.backends"),
    ],
)
def test_what_no_body_or_engine_is_for_names_what_there_is(
    tiny_bundle: Path, targets: dict[str, str], asked: dict[str, Any], named: str
) -> None:
    known = list(open_bundle(tiny_bundle).manifest.bodies.values())
    bodies = {
        name: msgspec.structs.replace(known[name != "float32"], target=target) for name, target in targets.items()
    }
    change_bundle(tiny_bundle, bodies=bodies)
    with pytest.raises(UserError, match=named):
        fewstep.runtime.load(tiny_bundle, **asked)


@pytest.mark.parametrize(
    ("instructions", "target"), [(VNNI, "cpu-x86"), (NO_VNNI, "cpu-x86-no-vnni")], ids=["with VNNI", "without VNNI"]
)
def test_where_no_body_is_int8_the_target_for_this_cpu_is_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], target: str
) -> None:
    describe_cpu(monkeypatch, tmp_path, instructions)
    known = open_bundle(tiny_bundle).manifest.bodies
    change_bundle(tiny_bundle, bodies={"float32": known["float32"]})
    with pytest.raises(UserError, match=f"has no int8-{target} body, only float32; .* --target {target}$"):
        fewstep.runtime.load(tiny_bundle, precision="int8")


@pytest.mark.parametrize("path", [None, 5])
def test_a_bundle_that_is_no_path_is_named(path: Any) -> None:
    with refuses(f"bundle {path}", "the folder"):
        fewstep.runtime.load(path)


def test_a_sampler_is_shown_in_a_line(tiny_bundle: Path) -> None:
    assert repr(fewstep.runtime.load(tiny_bundle)) == f"<Sampler of {tiny_bundle}: float32 body for portable>"


def test_a_body_for_another_engine_is_opened_with_a_warning(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    describe_cpu(monkeypatch, tmp_path, VNNI)  # which int8-cpu-x86 suits
    bodies = open_bundle(tiny_bundle).manifest.bodies
    simulated = msgspec.structs.replace(bodies["int8-cpu-x86"], target="tensorrt")
    change_bundle(tiny_bundle, bodies={**bodies, "int8-tensorrt": simulated})
    fewstep.runtime.load(tiny_bundle, body="int8-cpu-x86")
    fewstep.runtime.load(
        tiny_bundle, body="int8-tensorrt", backend=OnnxRuntime(fuse_qdq=False)
    )  # who names a backend means it
    with pytest.raises(UserError, match="no body 'int8-foo'"):
        fewstep.runtime.load(tiny_bundle, body="int8-foo")
    assert not caplog.messages
    fewstep.runtime.load(tiny_bundle, body="int8-tensorrt")
    assert "simulates it slowly" in caplog.messages[0]
