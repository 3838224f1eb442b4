"""Steps and samples of a bundle's body for Hexagon in HTP's arithmetic, beside ONNX's and beside another quantizer.

    python -m benchmarks.npu.steps BUNDLE [--at 0,4] [--seeds 2] [--first-seed 1000] [--peer]

BUNDLE was calibrated with `--target qnn`. The steps --at have the inputs that float32 has there, of the first seed.
--seeds makes whole samples in both arithmetics, which takes minutes each. --peer adds steps of the float graph
quantized by onnxruntime's `get_qnn_qdq_config` as it is by default, with 16-bit activations and int8 weights by
channel; it is calibrated on float32's inputs along 16 seeds, every call of all steps. Decibels are of the output, its
direction (the difference of the two branches of guidance) and, of samples, PSNR against float32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

from benchmarks import options
from fewstep.evaluation.speed.mean_step import taken
from fewstep.plans.plan import Plan
from fewstep.rollouts.calibrated_plan import judged_plan
from fewstep.rollouts.closed_loop import open_course
from fewstep.rollouts.trajectories import BodyCall, roll_out
from fewstep.runtime import load
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.sampler import Sampler

BODY = "int8-qnn"
ONNX = OnnxRuntime(fuse_qdq=False)
PEER_SEEDS = range(200_000, 200_016)


def taking_its_own(sampler: Sampler) -> LoadedGraph:
    """A body's network, which leaves what other bodies are fed."""
    return lambda feeds: sampler.denoiser(taken(sampler.body.graph, feeds))


def calls(sampler: Sampler, plan: Plan, seeds: range) -> Iterator[BodyCall]:
    return roll_out(sampler, plan, seeds, batch=1)


def decibels(expected: np.ndarray, computed: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(expected) / np.linalg.norm(expected - computed)))


def directions(output: np.ndarray) -> np.ndarray:
    return output[0::2] - output[1::2]


def print_step(name: str, number: int, expected: np.ndarray, onnx_s: np.ndarray, htp: np.ndarray) -> None:
    rows = {"HTP": decibels(expected, htp), "ONNX": decibels(expected, onnx_s), "HTP to ONNX": decibels(onnx_s, htp)}
    if len(expected) % 2 == 0:
        rows["direction HTP"] = decibels(directions(expected), directions(htp))
        rows["direction ONNX"] = decibels(directions(expected), directions(onnx_s))
    print(f"{name}, step {number}:", ", ".join(f"{key} {value:.1f} dB" for key, value in rows.items()), flush=True)


def quantized_by_peer(sampler: Sampler, plan: Plan, folder: Path) -> Path:
    model = onnx.load(sampler.bundle.graph(sampler.body.graph))
    fed = [call.feeds for call in calls(sampler, plan, PEER_SEEDS)]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = len(fed[0]["x"])
    del model.graph.value_info[:]
    source, prepared, result = (folder / f"{name}.onnx" for name in ("float", "prepared", "quantized"))
    onnx.save(onnx.shape_inference.infer_shapes(model), source)
    source = prepared if qnn_preprocess_model(source, prepared) else source

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(fed)

        def get_next(self) -> Any:
            return next(self.left, None)

    types = {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize(source, result, get_qnn_qdq_config(source, Reader(), **types))
    return result


def print_steps(sampler: Sampler, plan: Plan, numbers: list[int], seed: int, networks: dict[str, Any]) -> None:
    output = sampler.body.graph.outputs[0].name
    for call in calls(sampler, plan, range(seed, seed + 1)):
        if call.state.index in numbers:
            expected = call.tensors[output]
            for name, pair in networks.items():
                print_step(name, call.state.index, expected, *(network(call.feeds)[output] for network in pair))


def print_sample(sampler: Sampler, plan: Plan, seed: int, onnx_s: LoadedGraph, htp: LoadedGraph) -> None:
    course = open_course(sampler, plan, range(seed, seed + 1), None)
    here, there = (float(course.quality(course.run([each] * course.groups))[0]) for each in (onnx_s, htp))
    print(f"sample {seed}: HTP {there:.1f} dB, ONNX {here:.1f} dB", flush=True)


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--at", default="0,4", help="numbers of steps, from 0")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--peer", action="store_true")
    arguments = parser.parse_args()
    steps, seeds = [int(each) for each in arguments.at.split(",")], options.seeds_of(arguments)
    reference = load(arguments.bundle, body="float32")
    here, htp = (taking_its_own(load(arguments.bundle, body=BODY, backend=each)) for each in (ONNX, Qnn()))
    plan = judged_plan(reference, reference.bundle.body(BODY))
    networks: dict[str, Any] = {BODY: (here, htp)}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.peer:
            file = quantized_by_peer(reference, plan, Path(folder))
            networks["get_qnn_qdq_config"] = ONNX.open(file), Qnn().open("it", str(file), {})
        print_steps(reference, plan, steps, seeds.start, networks)
    for seed in seeds:
        print_sample(reference, plan, seed, here, htp)


if __name__ == "__main__":
    main()
