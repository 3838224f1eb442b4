"""Weights in 4 bits on trained denoisers, next to NNCF's, on seeds that nothing was tuned on.

    python -m benchmarks.quantization.few_bits [--model NAME ...] [--python nncf_int4=PATH] [--page]

All contenders get the same prepared graph, and have the same products in 4 bits and the same convolutions in 8, as
`fewstep calibrate --target int4-weights` makes them. The forms with float activations compare weights alone. The body
as it is deployed, whose activations are rounded to 8 bits, is compared too, in onnxruntime and in OpenVINO. Results
are kept in the work folder; `--page` puts the table into lab/measured/few_bits.md.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.markdown import put_part, table
from benchmarks.quantization.compare import environments
from benchmarks.quantization.contenders import Contender, Tool
from benchmarks.quantization.run_tools import quantize
from benchmarks.quantization.tool_inputs import Material
from benchmarks.result_store import load_or_compute
from benchmarks.zoo_bundles import CODE, calibration, exported, held_out_rows
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.cost import operation_error_runs
from fewstep.calibration.float_runs import FloatRuns
from fewstep.calibration.lowering.gptq import correct_rounding, round_in_groups
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.precision.stored_weights import (
    RoundedWeights,
    WeightRecipe,
    coarsest_bits,
    constant_bytes,
    rank_finer,
)
from fewstep.calibration.second_moments import follow_first_trajectories
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import select_trajectories, split_trajectories
from fewstep.cli.progress import progress_display
from fewstep.graph.files import io
from fewstep.graph.graph import Graph, Node
from fewstep.graph.grouped_weights import GROUPS, GroupedWeight, group_size, quantize_in_groups
from fewstep.graph.passes.stored_weights import can_have_4_bits, nearest_int8, select_stored_ops
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import open_session
from fewstep.graph.weight_quantization import QuantizedWeight
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.any_plan import regroup
from fewstep.plans.plan import DENOISER
from fewstep.runtime import load
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.platforms import INT4_WEIGHTS
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.progress import SILENT
from fewstep.runtime.sampling.sampler import Sampler
from zoo.members import BY_NAME, SHIPPED, Member

ALL = (*BY_NAME.values(), *SHIPPED)
PAGE = Path(__file__).parents[2] / "lab/measured/few_bits.md"
SCRIPT = "benchmarks.quantization.few_bits"
BATCH = 8
NNCF = Tool("nncf_int4", "NNCF", "onnxruntime", ("nearest", "tuned", "awq", "tuned-0.8"))
DEPLOYED = "fewstep, as deployed"

Weights = Mapping[str, NDArray[np.float32]]  # [inputs, outputs] by the code of the operation


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PSNR of a contender's samples to float32's in dB, and the bytes of its body's constants."""

    contender: str
    mean: float
    p5: float
    bytes: float


@dataclass(frozen=True)
class Comparison:
    """Weights of one denoiser, judged on held-out seeds."""

    task: Task
    calibrated: CalibrateOptions
    member: Member
    seeds: range

    @cached_property
    def products(self) -> tuple[WeightedOp, ...]:
        """The operations in 4 bits, one for each weight."""
        ops = [op for op in select_stored_ops(self.task.prepared) if can_have_4_bits(op, self.task.prepared)]
        return tuple({op.code: op for op in reversed(ops)}.values())

    @cached_property
    def moments(self) -> Mapping[str, NDArray[np.float32]]:
        return follow_first_trajectories(self.task).moments

    @cached_property
    def exact(self) -> Weights:
        constants = self.task.prepared.constants
        return {op.code: _move_inputs_first(constants[op.weight], op) for op in self.products}

    @cached_property
    def others(self) -> Graph:
        """The graph with all other weights in 8 bits, as `int4-weights` has them."""
        codes = {op.code for op in self.products}
        bits = {op.code: 8 for op in select_stored_ops(self.task.prepared) if op.code not in codes}
        return RoundedWeights(self.task.prepared, self.moments).store(bits) if bits else self.task.prepared

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        return self.sample(self.task.sampler)

    def sample(self, sampler: Sampler) -> NDArray[np.float32]:
        plan, parts = self.task.plan, []
        batch = SeedBatch.from_manifest(sampler.bundle.manifest, self.seeds, held_out_rows(self.member, self.seeds))
        for part in batch.split(BATCH):
            parts.append(sampler.sample(plan, part.seeds, part.conditions, plan.guidance))
        return np.concatenate(parts)

    def judge(self, name: str, sampler: Sampler, size: float) -> Row:
        values = psnr(self.sample(sampler), self.reference)
        return Row(name, round(float(values.mean()), 2), round(float(np.percentile(values, 5)), 2), size)

    def judge_weights(self, name: str, weights: Weights, size: float) -> Row:
        """Judge weights with float activations. size: their bytes."""
        constants = dict(self.others.constants)
        for op in select_stored_ops(self.task.prepared):
            if op.code in weights:
                constants[op.weight] = np.ascontiguousarray(np.moveaxis(weights[op.code], 1, op.axis))
        graph = replace(self.others, constants=constants)
        network = run_row_by_row(open_session(graph, optimize=True, threads=self.task.threads), graph.inputs)
        rest = constant_bytes(self.others) - sum(weight.nbytes for weight in self.exact.values())
        return self.judge(name, self.task.sampler.with_network_parts(graph=network), rest + size)

    def judge_rounding(self, name: str, rounded: Mapping[str, GroupedWeight]) -> Row:
        size = sum(map(packed_bytes, rounded.values()))
        return self.judge_weights(name, {code: weight.dequantize() for code, weight in rounded.items()}, size)

    @cached_property
    def finer_order(self) -> tuple[str, ...]:
        """The weights in 4 bits in the order in which `calibrate` stores them in 8."""
        (target,) = self.task.targets
        bits = coarsest_bits(target, self.task.prepared)
        runs = FloatRuns(self.task, regroup(self.task.plan, {DENOISER: self.task.edges}), SILENT)
        recipe = WeightRecipe(target, RoundedWeights(self.task.prepared, self.moments), bits, 1)
        return rank_finer(recipe, runs.of_operations, operation_error_runs(self.task), self.task.policy)[0]

    def mixed_row(self, name: str, most: float) -> Row:
        """Judge our rounding, with as many weights in 8 bits as `most` bytes of the body allow."""
        rounded: dict[str, GroupedWeight | QuantizedWeight] = {
            op.code: self.gptq(op, group_size(op.channels_in)) for op in self.products
        }
        rest = constant_bytes(self.others) - sum(weight.nbytes for weight in self.exact.values())
        ops = {op.code: op for op in self.products}
        for code in self.finer_order:
            op, weight = ops[code], self.task.prepared.constants[ops[code].weight]
            nearest = nearest_int8(op, self.task.prepared)
            finer = {**rounded, code: correct_rounding(nearest, weight, op, self.moments[code], None)}
            if rest + sum(map(packed_bytes, finer.values())) > most:
                break
            rounded = finer
        weights = {
            code: weight.dequantize()
            if isinstance(weight, GroupedWeight)
            else _move_inputs_first(weight.dequantize(), ops[code])
            for code, weight in rounded.items()
        }
        return self.judge_weights(name, weights, sum(map(packed_bytes, rounded.values())))

    def gptq(self, op: WeightedOp, group: int) -> GroupedWeight:
        return round_in_groups(self.task.prepared.constants[op.weight], op, self.moments[op.code], group)

    def rounded_rows(self) -> Iterator[Row]:
        """Yield GPTQ and the nearest codes, with the groups of each weight as deployed, and with groups of one size."""
        labels = {"groups as deployed": None, **{f"groups of {group}": group for group in GROUPS}}
        for label, fixed in labels.items():
            groups = {op.code: fixed or group_size(op.channels_in) for op in self.products}
            by_gptq = {op.code: self.gptq(op, groups[op.code]) for op in self.products}
            yield self.judge_rounding(f"GPTQ, {label}", by_gptq)
            nearest = {code: quantize_in_groups(weight.T, groups[code]) for code, weight in self.exact.items()}
            yield self.judge_rounding(f"nearest, {label}", nearest)

    def deployed_rows(self) -> Iterator[Row]:
        """Yield the body of `fewstep calibrate`, in float arithmetic of its weights and on two engines."""
        name = INT4_WEIGHTS.name
        if name not in open_bundle(self.calibrated.bundle).manifest.bodies:
            calibrate(self.calibrated)
        bundle = open_bundle(self.calibrated.bundle)
        size = constant_bytes(io.load(bundle.graph(bundle.body(name).graph), root=bundle.path))
        yield self.judge(f"{DEPLOYED}, onnxruntime", open_body(bundle, name, self.task.threads), size)
        yield self.judge(
            f"{DEPLOYED}, OpenVINO",
            load(self.calibrated.bundle, body=name, backend=OpenVino(threads=self.task.threads)),
            size,
        )

    def nncf_rows(self, python: str, work: Path) -> Iterator[Row]:
        material = self.write_material(work)
        for setting in NNCF.settings:
            made = quantize(Contender(NNCF.engine, NNCF, setting), material, python)
            with np.load(made.path) as stored:
                weights = {op.code: stored[str(number)] for number, op in enumerate(self.products)}
                row = self.judge_weights(f"NNCF, {setting}", weights, float(stored["bytes"]))
            yield row
            yield self.mixed_row(f"fewstep, at most the bytes of NNCF, {setting}", row.bytes)

    def write_material(self, work: Path) -> Material:
        """Write what `tools/nncf_int4.py` reads, and return it."""
        folder = work / self.calibrated.bundle.name / "nncf"
        if not (folder / "products.json").exists():
            (folder / "feeds").mkdir(parents=True, exist_ok=True)
            io.save(separate_biases(self.task.prepared), folder / "float.onnx")
            number = 0
            for trajectory in list(split_trajectories(self.task))[:16]:
                for call in select_trajectories(self.task, trajectory).run_trajectories(
                    self.task.sampler.network().graph
                ):
                    for row in range(len(next(iter(call.feeds.values())))):
                        feeds = {name: value[row : row + 1] for name, value in call.feeds.items()}
                        np.savez(folder / "feeds" / f"{number:05}.npz", **feeds)  # type: ignore[arg-type]
                        number += 1
            (folder / "products.json").write_text(json.dumps([product_name(op) for op in self.products]))
        return Material(folder, self.task.prepared)


def product_name(op: WeightedOp) -> str:
    return f"{op.name}/product" if op.bias else op.name


def separate_biases(graph: Graph) -> Graph:
    """Return the graph with each Gemm as a MatMul and an Add, and with nodes named after the tensor that they make."""
    nodes = list[Node]()
    constants = dict(graph.constants)
    ops = {op.name: op for op in select_stored_ops(graph)}
    for node in graph.nodes:
        op = ops.get(node.output)
        if op is None or node.op != "Gemm" or not can_have_4_bits(op, graph):
            nodes.append(replace(node, name=node.output))
            continue
        constants[f"{op.code}/turned"] = np.ascontiguousarray(np.moveaxis(graph.constants[op.weight], op.axis, 1))
        product = product_name(op)
        nodes.append(Node("MatMul", (op.x, f"{op.code}/turned"), (product,), name=product))
        nodes += [Node("Add", (product, bias), (op.name,), name=op.name) for bias in op.bias]
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _move_inputs_first(weight: NDArray[np.float32], op: WeightedOp) -> NDArray[np.float32]:
    return np.moveaxis(weight, op.axis, 1)


def packed_bytes(weight: GroupedWeight | QuantizedWeight) -> float:
    """Return the bytes of a weight. In 4 bits it has codes, scales of 16 bits, and zero points of 4."""
    if isinstance(weight, QuantizedWeight):
        return weight.values.nbytes + weight.scales.nbytes
    outputs, groups = weight.scales.shape
    return outputs * groups * (weight.group / 2 + 2 + 0.5)


def compare(member: Member, arguments: argparse.Namespace, pythons: Mapping[str, str]) -> list[Row]:
    """Return the rows of a denoiser."""
    bundle = exported(member, arguments.work / "bundles", "few bits")
    asked = replace(
        calibration(member, bundle, member.plan, [INT4_WEIGHTS.name], CalibrateOptions.trajectories),
        threads=arguments.threads,
    )
    task = open_tasks(open_bundle(bundle), asked, check_options(asked))[DENOISER]
    comparison = Comparison(task, asked, member, options.seeds_of(arguments))
    if not comparison.products:
        return []

    def keep(rows: Callable[[], Iterator[Row]], *follows_from: object) -> list[Row]:
        seeds = comparison.seeds
        return load_or_compute(arguments.work, list[Row], lambda: list(rows()), bundle.name, seeds, *follows_from)

    rows = keep(comparison.rounded_rows, "rounded", digest_code(CODE))
    rows += keep(comparison.deployed_rows, "deployed", digest_code(CODE))
    if (python := pythons.get(NNCF.id)) is not None:
        rows += keep(lambda: comparison.nncf_rows(python, arguments.work), "nncf")
    return rows


def main(given: list[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    options.add_models(parser, [member.name for member in ALL])
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help="Python that has the tool")
    options.add_seeds(parser, 32, first=3000)
    parser.add_argument("--threads", type=int, default=0, help="threads; 0 for all cores")
    options.add_work(parser, "few-bits")
    options.add_page(parser, PAGE)
    arguments = parser.parse_args(given)
    logging.getLogger().setLevel(logging.ERROR)
    lines = []
    with options.refusing(parser), progress_display():
        pythons = environments(arguments.python)
        for member in ALL:
            if arguments.model and member.name not in arguments.model:
                continue
            for row in compare(member, arguments, pythons):
                lines.append((member.name, row.contender, f"{row.mean:.1f}", f"{row.p5:.1f}", f"{row.bytes / 1e6:.3f}"))
                print(*lines[-1], sep=" | ", flush=True)
    made = table(("denoiser", "weights", "dB", "5th percentile", "MB"), lines)
    if arguments.page:
        put_part(PAGE, SCRIPT, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
