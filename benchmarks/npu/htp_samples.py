"""Steps and samples of a bundle's body for Hexagon in HTP's arithmetic, compared with ONNX's and another quantizer's.

    python -m benchmarks.npu.htp_samples BUNDLE [--body int8-qnn] [--at 0,4] [--seeds 2] [--whole 2] [--peers]

BUNDLE was calibrated with `--target qnn`, or `qnn-8bit`. The steps --at have the inputs that float32 has there, along
each seed. --whole makes samples of the first seeds in both arithmetics, which takes minutes each. --peers adds steps
of the float graph quantized by onnxruntime's `get_qnn_qdq_config`, with int8 weights by channel. It is calibrated on
float32's inputs along 16 seeds, every call of all steps; percentile on every eighth, since it holds all activations at
once. Where aimet-onnx is installed, AIMET is calibrated on the same calls, by its defaults, for 16 and for 8 bits.
Decibels are of the output, of its direction (the difference of the two branches of guidance) and, of samples, PSNR
against float32.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

from benchmarks import options
from benchmarks.markdown import table
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.rollouts.recorded_run import record_run
from fewstep.measure.rollouts.trajectories import BodyCall, roll_out
from fewstep.measure.speed.mean_step import select_feeds
from fewstep.plans.plan import Plan
from fewstep.runtime import load
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.sampling.sampler import Sampler

ONNX = OnnxRuntime(fuse_qdq=False)
PEER_SEEDS = range(200_000, 200_016)
EIGHTH = 8
PEERS: dict[str, dict[str, Any]] = {
    "the peer": {},
    "the peer, percentile": {"calibrate_method": CalibrationMethod.Percentile},
    "the peer, uint8": {"activation_type": QuantType.QUInt8},
}
AIMET = {"AIMET": "int16", "AIMET, 8 bits": "int8"}
HEAD = ("body", "seed", "step", "HTP", "ONNX's arithmetic", "HTP to ONNX's", "direction: HTP, ONNX's")


def taking_its_own(sampler: Sampler) -> LoadedGraph:
    """A body's network, which drops inputs that only other bodies take."""
    return lambda feeds: sampler.network().graph(select_feeds(sampler.body.graph, feeds))


def calls(sampler: Sampler, plan: Plan, seeds: range) -> Iterator[BodyCall]:
    return roll_out(sampler, plan, seeds, batch=1)


def decibels(expected: np.ndarray, computed: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(expected) / np.linalg.norm(expected - computed)))


def directions(output: np.ndarray) -> np.ndarray:
    return output[0::2] - output[1::2]


def print_step(name: str, seed: int, number: int, expected: np.ndarray, onnx_s: np.ndarray, htp: np.ndarray) -> None:
    pairs = ((expected, htp), (expected, onnx_s), (onnx_s, htp))
    cells = [name, str(seed), str(number), *(f"{decibels(*pair):.1f}" for pair in pairs)]
    if len(expected) % 2 == 0:
        both = (decibels(directions(expected), directions(each)) for each in (htp, onnx_s))
        cells.append(", ".join(f"{each:.1f}" for each in both))
    print("|", " | ".join(cells), "|", flush=True)


def fix_rows(sampler: Sampler, rows: int) -> onnx.ModelProto:
    """Return the float graph for a number of rows, with all shapes."""
    model = onnx.load(sampler.bundle.graph(sampler.body.graph))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def quantize_by_peer(sampler: Sampler, fed: Sequence[Arrays], folder: Path, settings: Mapping[str, Any]) -> Path:
    source, prepared, result = (folder / f"{name}.onnx" for name in ("float", "prepared", "quantized"))
    onnx.save(fix_rows(sampler, len(fed[0]["x"])), source)
    source = prepared if qnn_preprocess_model(source, prepared) else source

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(fed)

        def get_next(self) -> Any:
            return next(self.left, None)

    types: dict[str, Any] = {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize(source, result, get_qnn_qdq_config(source, Reader(), **types | dict(settings)))
    return result


def quantize_by_aimet(sampler: Sampler, fed: Sequence[Arrays], folder: Path, activations: str) -> Path:
    from aimet_onnx import QuantizationSimModel  # type: ignore[import-not-found]

    simulation = QuantizationSimModel(
        fix_rows(sampler, len(fed[0]["x"])), param_type="int8", activation_type=activations, config_file="default"
    )
    simulation.compute_encodings([select_feeds(sampler.body.graph, each) for each in fed])
    onnx.save(simulation.to_onnx_qdq(prequantize_constants=True), folder / "quantized.onnx")
    return folder / "quantized.onnx"


def peers(sampler: Sampler, plan: Plan, folder: Path) -> Iterator[tuple[str, Path]]:
    """Return their names and graphs."""
    fed = [call.feeds for call in calls(sampler, plan, PEER_SEEDS)]
    aimet = AIMET if find_spec("aimet_onnx") else {}
    for name in (*PEERS, *aimet):
        own = folder / name
        own.mkdir()
        if name in aimet:
            yield name, quantize_by_aimet(sampler, fed, own, aimet[name])
        else:
            part = fed[:: EIGHTH if "calibrate_method" in PEERS[name] else 1]
            yield name, quantize_by_peer(sampler, part, own, PEERS[name])


def print_steps(sampler: Sampler, plan: Plan, numbers: list[int], seeds: range, networks: dict[str, Any]) -> None:
    output = sampler.body.graph.outputs[0].name
    print(table(HEAD, ()))
    for call in calls(sampler, plan, seeds):
        if call.state.index in numbers:
            expected, place = call.tensors[output], (call.seeds[0], call.state.index)
            for name, pair in networks.items():
                print_step(name, *place, expected, *(network(call.feeds)[output] for network in pair))


def print_sample(sampler: Sampler, plan: Plan, seed: int, onnx_s: LoadedGraph, htp: LoadedGraph) -> None:
    course = record_run(sampler, plan, range(seed, seed + 1), None)
    here, there = (float(course.decibels(course.run([each] * course.groups))[0]) for each in (onnx_s, htp))
    print(f"sample {seed}: HTP {there:.1f} dB, ONNX {here:.1f} dB", flush=True)


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--body", default="int8-qnn")
    parser.add_argument("--at", default="0,4", help="indices of steps, from 0")
    options.add_seeds(parser, 1, 1000)
    parser.add_argument("--whole", type=int, default=0, help="number of seeds with whole samples")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    body, steps, seeds = arguments.body, [int(part) for part in arguments.at.split(",")], options.seeds_of(arguments)
    reference = load(arguments.bundle, body="float32")
    here, htp = (taking_its_own(load(arguments.bundle, body=body, backend=each)) for each in (ONNX, Qnn()))
    plan = select_plan(reference.plans, reference.bundle.body(body))
    networks: dict[str, Any] = {body: (here, htp)}
    with tempfile.TemporaryDirectory() as folder:
        for name, file in peers(reference, plan, Path(folder)) if arguments.peers else ():
            networks[name] = ONNX.open(file), Qnn().open("it", str(file), {})
        print_steps(reference, plan, steps, seeds, networks)
    for seed in seeds[: arguments.whole]:
        print_sample(reference, plan, seed, here, htp)


if __name__ == "__main__":
    main()
