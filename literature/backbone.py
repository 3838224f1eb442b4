"""Autoregression with a diffusion head in one file, by `fewstep bake --around backbone:FILE.onnx`. Each round runs a
backbone, then all steps of the head's plan, in an ONNX Loop.

The backbone is any graph that computes conditions of the head (MAR: Li et al. 2024, arXiv 2406.11838; VibeVoice: Peng
et al. 2025, arXiv 2508.19205). It may take the sample of the previous round as `x`, which is zero or an input of the
file in the first round, and the index of the round as `number`. A tensor that it returns as next_NAME is its input
carried_NAME in the next round. All its other inputs are inputs of the file, and equal in all rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from fewstep.graph.bake.assemble import PICTURE, SAMPLE, BakedRun, check_names, value_of
from fewstep.graph.bake.carried import PORT
from fewstep.graph.bake.draws import DRAWS, NOISE
from fewstep.graph.bake.metadata import BakedPort
from fewstep.graph.builder import Builder
from fewstep.graph.files import io, weights
from fewstep.graph.files.upgrade import report_foreign_errors, to_opset
from fewstep.graph.graph import BATCH, OPSET, Graph, Node, Value, X
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.graph_entry import CARRIED, NEXT

ROUNDS, NUMBER = "rounds", "number"
Shape = tuple[int | str, ...]


def backbone(run: BakedRun, file: str) -> BakedRun:
    """Return a run of several rounds, each of which first runs the backbone in an .onnx file. Raises UserError if the
    file is missing, or does not fit the run."""
    return add_backbone(run, read_backbone(Path(file)))


def read_backbone(path: Path) -> Graph:
    """Read the graph of an .onnx file, converted to fewstep's opset. Raises UserError if there is none."""
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise UserError(what, "give the .onnx file of the backbone")
    with report_foreign_errors(path.name):
        return io.from_model(to_opset(io.parse(path), path.name), path)


def add_backbone(run: BakedRun, backbone: Graph) -> BakedRun:
    """Return a run of several rounds, each of which runs the backbone and then the head. `noise` becomes [rounds, B,
    ...], `draws` [D, rounds, B, ...], and the sample [rounds, B, ...]. Raises UserError if the two do not fit."""
    _check(run, backbone)
    conditions = {value.name for value in backbone.outputs}
    read = [_port(value, run.output.shape) for value in backbone.inputs if value.name != NUMBER]
    state = [port for port in read if port.meaning in (PORT, X)]
    ports = [_add_round_axis(port) for port in run.inputs if port.name not in conditions]
    sample, left = _add_round_axis(run.output), [_next_port(port) for port in state if port.name != X]
    check_names((*ports, *read, sample, *left))
    outer = Builder("rounds", optional={value.name: value for value in run.graph.optional})
    body = _round_body(outer, run, backbone, [value_of(port) for port in state])
    shape = outer.node("Shape", (NOISE,), "shape", start=0, end=1)
    count = outer.node("Squeeze", (shape,), "count")
    true = outer.constant(np.array(True), "goes_on")
    results = (f"{outer.prefix}/{X}" if port.name == X else _next_name(port.name) for port in state)
    names = tuple(port.name for port in state)
    outer.nodes.append(Node("Loop", (count, true, *names), (*results, sample.name), {"body": body}, "rounds"))
    inputs, outputs = (*ports, *read), (sample, *left)
    graph = outer.graph([*map(value_of, inputs)], [*map(value_of, outputs)], run.graph.extents)
    return BakedRun(graph, inputs, sample, run.draws, tuple(left), {ROUNDS: 2})


def _round_body(outer: Builder, run: BakedRun, backbone: Graph, state: Sequence[Value]) -> Graph:
    """Return the graph that the Loop runs in each round: the backbone, then the run with the noise of this round. It
    returns the state and the sample."""
    inner = Builder("round")
    number, goes_on = (f"{inner.prefix}/{name}" for name in (NUMBER, "goes_on"))
    fed = {value.name: value.name for value in backbone.inputs} | {NUMBER: number}
    fed |= {value.name: f"{inner.prefix}/{value.name}" for value in state}
    names = inner.inline_graph(backbone, fed, "backbone")
    for port in run.inputs:
        if port.name in (NOISE, DRAWS):
            names[port.name] = inner.node("Gather", (port.name, number), port.name, axis=_axis(port))
    sample = names[run.output.name] = f"{inner.prefix}/{run.output.name}"
    head = rename_tensors(run.graph, names)
    inner.nodes += head.nodes
    inner.constants |= head.constants
    inner.described |= {value.name: value for value in head.described}
    outer.optional |= inner.optional  # a Loop's body cannot have optional inputs, so it reads those of the outer graph
    inner.optional = {}
    sources = [sample if value.name == X else names[_next_name(value.name)] for value in state]
    nexts = [inner.node("Identity", (source,), f"{v.name}_next") for source, v in zip(sources, state, strict=True)]
    still, stacked = (inner.node("Identity", (each,), to) for each, to in ((goes_on, "still"), (sample, "stacked")))
    whole, flag = np.dtype(np.int64), np.dtype(bool)
    return inner.graph(
        [
            Value(number, whole, ()),
            Value(goes_on, flag, ()),
            *(replace(value, name=fed[value.name]) for value in state),
        ],
        [
            Value(still, flag, ()),
            *(replace(value, name=name) for value, name in zip(state, nexts, strict=True)),
            replace(value_of(run.output), name=stacked),
        ],
        {},
    )


def rename_tensors(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Return the graph with some tensors renamed, in nested graphs too. `names` maps old to new names."""

    def rename_node(node: Node) -> Node:
        inputs, outputs = (
            tuple(names.get(tensor, tensor) for tensor in tensors) for tensors in (node.inputs, node.outputs)
        )
        bodies = {
            key: rename_tensors(value, names) for key, value in node.attributes.items() if isinstance(value, Graph)
        }
        return replace(node, inputs=inputs, outputs=outputs, attributes={**node.attributes, **bodies})

    return replace(graph, nodes=tuple(map(rename_node, graph.nodes)))


def _check(run: BakedRun, backbone: Graph) -> None:
    """Raise UserError if the outputs of a backbone graph cannot become the inputs of a baked run."""
    if run.carried or run.output.dtype != "float32" or all(port.name != NOISE for port in run.inputs):
        raise UserError(
            "a backbone cannot be added to a run that carries tensors or begins without noise", "leave the backbone out"
        )
    for kind, values in (("inputs", backbone.inputs), ("outputs", backbone.outputs)):
        names = [value.name for value in values]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two {kind} of the backbone have the name {name!r}", "give them different names")
    nexts = {value.name: value for value in backbone.outputs if value.name.startswith(NEXT)}
    carried = {_next_name(value.name): value for value in backbone.inputs if value.name.startswith(CARRIED)}
    for name in sorted({*nexts} ^ {*carried}):
        verb, own, other = ("returns", name, CARRIED) if name in nexts else ("takes", carried[name].name, NEXT)
        what = f"the backbone {verb} {own!r}, and has no {other + name.removeprefix(NEXT)!r}"
        raise UserError(what, f"let it take {CARRIED}* and return {NEXT}*, or leave both out")
    conditions = {port.name: port for port in run.inputs if port.meaning == "condition"}
    outputs = [value for value in backbone.outputs if value.name not in nexts]
    if not outputs or not {value.name for value in outputs} <= {*conditions}:
        what = f"the backbone returns {', '.join(value.name for value in outputs) or 'no condition'}"
        raise UserError(what, f"name its outputs after conditions of the denoiser: {', '.join(conditions)}")
    for value in outputs:
        _check_value(value, conditions[value.name].dtype, conditions[value.name].shape, "return")
    for name, value in carried.items():
        _check_value(nexts[name], value.dtype.name, value.shape, "return")
    taken = {X: (run.output.dtype, run.output.shape), NUMBER: ("int64", ())}
    for value in backbone.inputs:
        if value.name in taken:
            _check_value(value, *taken[value.name], "take")
    _check_rules(backbone)


def _check_rules(graph: Graph) -> None:
    """Raise UserError for a graph that breaks the rules of ONNX and that onnxruntime refuses.

    A valid ONNX graph that onnxruntime cannot run, such as one with operations of a different engine, is accepted.
    Weights are not checked, since they may have gigabytes.
    """
    large = weights.large_constants(graph)
    given = tuple(Value(each, array.dtype, array.shape) for each, array in large.items())
    small = {each: array for each, array in graph.constants.items() if each not in large}
    skeleton = replace(graph, inputs=graph.inputs + given, constants=small)
    try:
        onnx.checker.check_model(io.to_model(skeleton), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):  # it is stricter than onnxruntime
        try:
            open_session(skeleton)
        except UserError as error:
            fix = f"correct the operation that it names, and write the backbone again in opset {OPSET}"
            raise UserError(f"the backbone is not a valid ONNX graph: {error.what}", fix) from error


def _check_value(value: Value, dtype: str, shape: Shape, verb: str) -> None:
    """Raise UserError if an input or output differs in type, rank or size from the tensor that it is connected to."""
    differs = any(isinstance(own, int) and own != size for own, size in zip(value.shape, shape, strict=False))
    if differs or len(value.shape) != len(shape) or value.dtype != dtype:
        what = f"the backbone's {value.name!r} is {value.dtype} {list(value.shape)}"
        raise UserError(what, f"{verb} {dtype} {list(shape)}")


def _port(value: Value, sample: Shape) -> BakedPort:
    """Return the file's input for an input of the backbone, with the batch axis named as in the samples of the baked
    run."""
    meaning = X if value.name == X else PORT if value.name.startswith(CARRIED) else "condition"
    known = (sample[0] if size == BATCH else size for size in value.shape)
    shape = tuple(f"{value.name}_{axis}" if size == "?" else size for axis, size in enumerate(known))
    return BakedPort(value.name, meaning, sample if meaning == X else shape, value.dtype.name)


def _axis(port: BakedPort) -> int:
    """Return the index of the rounds' axis in an input. This axis is directly before the batch axis."""
    return int(port.name == DRAWS)


def _add_round_axis(port: BakedPort) -> BakedPort:
    """Return an input or output of noise or samples with an additional axis for the rounds. Others, which are equal in
    all rounds, are returned unchanged."""
    if port.meaning not in (NOISE, DRAWS, SAMPLE, PICTURE):
        return port
    at = _axis(port)
    return BakedPort(port.name, port.meaning, (*port.shape[:at], ROUNDS, *port.shape[at:]), port.dtype)


def _next_port(port: BakedPort) -> BakedPort:
    return BakedPort(_next_name(port.name), port.meaning, port.shape, port.dtype)


def _next_name(name: str) -> str:
    return NEXT + name.removeprefix(CARRIED)
