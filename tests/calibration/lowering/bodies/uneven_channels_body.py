"""Layers whose channels have different ranges, and given scales of channels."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.ranges.histogram import make_histogram
from fewstep.calibration.ranges.methods import minmax_ranges, mse_ranges
from fewstep.calibration.ranges.observe import channel_axes, expose_tensors, tensors_to_observe
from fewstep.calibration.ranges.table import ChannelRanges, RangesTable
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.session import run
from tests.calibration.lowering.bodies.small_body import open_simulation
from tests.exact_int8 import open_exact
from tests.onnx_text import graph_of_text

REACH = np.random.default_rng(2).permutation(2.0 ** -np.arange(6).repeat([2, 6, 6, 6, 6, 6]))  # of 32 channels


def layer(kind: str, reach: Array = REACH) -> Graph:
    """x -> a, channels multiplied by `reach` -> b, whose weights divide by it -> output: the same for any `reach`."""
    rng = np.random.default_rng(0)
    is_conv, groups = "Conv" in kind, 2 if "grouped" in kind else 1
    taps, image = ((3, 3), (6, 6)) if is_conv else ((), ())
    weight = rng.standard_normal((32, 32 // groups, *taps)) / np.sqrt(32)  # [outputs, inputs, taps]
    per_input = np.stack(np.split(reach, groups)).repeat(32 // groups, axis=0).reshape(32, -1, *[1] * len(taps))
    weight = weight / per_input
    first, last = np.diag(reach), rng.standard_normal((32, 32)) / 6
    attributes = f"<pads=[1, 1, 1, 1], group={groups}>" if is_conv else ""
    if is_conv:
        first, last = first[..., None, None], last[..., None, None]
    elif kind != "Gemm transB":
        weight = weight.T
    else:
        attributes = "<transB=1>"
    op = kind.split()[-1] if is_conv else kind.split()[0]
    outer, inside = "Conv" if is_conv else "MatMul", ", inside" if op == "Gemm" else ""
    bias = rng.standard_normal(32)
    constants = {"first": first, "w": weight, "last": last, "outer_bias": bias.reshape(-1, *[1] * len(taps))}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in constants.items()}
    plane = f"float[{', '.join(map(str, ('batch', 32, *image)))}]"
    text = f"""({plane} x) => ({plane} output) {{
        a = {outer}(x, first) b = {op}{attributes}(a, w{inside}) c = Add(b, outer_bias) output = {outer}(c, last)
    }}"""
    return graph_of_text(text, **arrays, **({"inside": bias} if inside else {}))


def given(graph: Graph, batch: int = 16) -> dict[str, Array]:
    """x within [-1, 1], with both extremes in each channel."""
    x = np.random.default_rng(1).uniform(-1, 1, [batch, *graph.inputs[0].shape[1:]]).astype(np.float32)
    x[0], x[1] = 1, -1
    return {"x": x}


def powers_of_two(reach: Array) -> Array:
    """Return powers of two for the range of each channel: 1 for the loudest, the next smaller power for others."""
    return np.asarray(2.0 ** np.floor(np.log2(reach / reach.max())))


def what_they_reach(reach: Array) -> Array:
    return np.asarray(reach / reach.max())


def seen(
    graph: Graph, fed: Mapping[str, Array], groups: int = 1, factors: Callable[[Array], Array] = powers_of_two
) -> RangesTable:
    """Return the observed ranges of tensors, by channel with these factors of the largest. Of several groups, along the
    edges 0, 1, ..., each has half the range of the next.
    """
    axes, observed = channel_axes(graph), tensors_to_observe(graph)
    values = run(expose_tensors(graph, observed), dict(fed)) | dict(fed)
    scales = [np.float32(2.0 ** (group - groups + 1)) for group in range(groups)]
    tensors = {}
    for name in observed:
        last = np.moveaxis(values[name], axes[name], -1)
        found = factors(np.abs(last).reshape(-1, last.shape[-1]).max(axis=0).astype(np.float64))
        divided = (last / found).astype(np.float32)
        one, own = (
            ranges([make_histogram(scale * each) for scale in scales])
            for each, ranges in ((last, mse_ranges), (divided, minmax_ranges))
        )
        tensors[name] = replace(one, by_channel=ChannelRanges(tuple(found.tolist()), own))
    return RangesTable("0" * 64, "ddim:3", tuple(float(edge) for edge in range(groups - 1)), "channels", tensors)


def one_scale(ranges: RangesTable) -> RangesTable:
    return replace(ranges, tensors={name: replace(tensor, by_channel=None) for name, tensor in ranges.tensors.items()})


def result(graph: Graph, ranges: RangesTable, target: Target, name: str = "b", group: int = 0) -> Array:
    """Return a tensor of the lowered graph, as deployed, or rounded at its pairs. Divisions are not fused with sums
    then, since fusion loses the names of the summands.
    """
    lowered = lower(graph, ranges, replace(target, finish=())).graph
    fed = given(graph) | ({GROUP: np.array([group])} if ranges.groups else {})
    opened = (open_exact if target is CPU_X86 else open_simulation)(lowered, [name])
    return opened(fed)[name].astype(np.float32)


def products(graph: Graph) -> Counter[str]:
    """Group products by their multiplier."""
    return Counter(node.inputs[0] for node in graph.nodes if node.name.startswith("channels("))
