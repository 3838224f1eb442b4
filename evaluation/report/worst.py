"""The worst sample of a body: which activations leave their ranges on its way, and at which steps.

A range holds what calibration saw. A sample whose activations reach further is clipped, and clipping moves it the same
way at every step. float32 is run once more along the worst sample and along the median one, and the part that the
codes of the body cannot represent is taken from each activation. Both lose the price of the ranges. An activation of
which the worst loses more may be the reason; if there is none, rounding is left.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.report.elements import Html, count, data, decibel, join, paragraph, percent, section, table
from fewstep.evaluation.report.operations import layer
from fewstep.evaluation.results import Clipped, Quality, WorstSample
from fewstep.graph.graph import Graph
from fewstep.lowering.bodies import ranges_file
from fewstep.lowering.encoding import Encoding, eight_of
from fewstep.lowering.quantize import encodings_of, measured_ops, narrow_codes
from fewstep.lowering.targets import targets_by_name
from fewstep.plans.plan import DENOISER, Plan, group_of
from fewstep.ranges import table as ranges_table
from fewstep.ranges.observe import channel_axes, open_watched
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.networks import said
from fewstep.runtime.sampler import Sampler

SHOWN = 5  # activations of a body
LEAST = 1e-4  # of an activation's energy: less is no reason
HEAD = ("activation", "step", "clipped of the worst sample", "of the median sample")

Array = NDArray[np.floating]


def worst_sample(
    reference: Sampler,
    prepared: Graph,
    body: Body,
    plan: Plan,
    psnr: Sequence[float],
    rows: ConditionRecords | None,
    threads: int = 0,
    network: str = DENOISER,
) -> WorstSample | None:
    """The seed with the lowest of `psnr` [seeds], and what its activations lose to clipping. None of a body that has no
    ranges of its own, as in bundles of earlier versions.

    reference: the float32 body. prepared: a network's graph, which runs on so many threads (0: one for each core).
    body: the network's. rows: conditions of one's own.
    """
    own = reference.of(network)
    file, target = ranges_file(own.bundle, body), targets_by_name().get(body.target)
    if file is None or target is None or body.graph.coverage is None:
        return None
    ranges = ranges_table.load(own.bundle.file(file))
    own_groups = () if target.scheme.everything else ranges.groups  # 16 bits hold the range of all steps
    if (ranges.plan, own_groups) != (body.plan, body.groups):
        return None
    groups = range(len(body.groups) + 1)
    int8 = [_int8_ops(body, group) for group in groups]
    ops = tuple(op for op in measured_ops(prepared, ranges, target.scheme) if any(op.name in each for each in int8))
    if not ops:
        return None
    coded = [{tensor for op in ops if op.name in int8[group] for tensor in (op.name, op.x)} for group in groups]
    codes = encodings_of(prepared, ranges, ops, target.scheme)
    if target.scheme.narrow:  # what is read in 8 bits has the tighter range
        eights = narrow_codes(prepared, ranges, ops)
        codes |= {op.x: eights[eight_of(op.name)] for op in ops if eight_of(op.name) in eights}
    order = np.argsort(psnr, kind="stable")
    worst, median = int(order[0]), int(order[len(order) // 2])
    watched = replace(own, denoiser=open_watched(prepared, tuple(codes), threads))
    whole = reference.with_network(network, watched)
    axes, edges = channel_axes(prepared), body.groups
    lost = [_lost(whole, axes, plan, codes, coded, edges, seed, rows, network) for seed in (worst, median)]
    words = {op.name: f"output of {layer(op.node)}" for op in ops} | {op.x: f"input of {layer(op.node)}" for op in ops}
    most = sorted((key for key in lost[0] if lost[0][key] >= LEAST), key=lambda key: -lost[0][key])[:SHOWN]
    clipped = tuple(
        Clipped(said(network, words[name]), step, lost[0][name, step], lost[1][name, step]) for name, step in most
    )
    return WorstSample(worst, float(psnr[worst]), median, float(psnr[median]), clipped)


def _int8_ops(body: Body, group: int) -> tuple[str, ...]:
    """The operations in int8 in the graph that runs a range group."""
    coverage = body.graphs[body.serving(group)].coverage
    return () if coverage is None else coverage.int8_ops


def _lost(
    watched: Sampler,
    axes: Mapping[str, int],
    plan: Plan,
    codes: Mapping[str, Encoding],
    coded: Sequence[Container[str]],
    edges: tuple[float, ...],
    seed: int,
    rows: ConditionRecords | None,
    network: str,
) -> dict[tuple[str, int], float]:
    """By activation and step, the share of its energy that clipping takes along float32's trajectory of a seed.

    coded: for each range group the activations that are in int8 there.
    """
    conditions = held_out_conditions(watched.bundle.manifest.conditions, [seed], rows)
    shares = {}
    for call in roll_out(watched, plan, [seed], conditions=conditions, network=network):
        held, group = {**call.feeds, **call.tensors}, group_of(call.state.step.lam, edges)
        for name, code in codes.items():
            if name not in coded[group]:
                continue
            shares[name, call.state.index] = clipped_share(held[name], code, group, axes.get(name, -1))
    return shares


def clipped_share(values: Array, code: Encoding, group: int, axis: int) -> float:
    """The share of the energy of an activation that its code cannot represent, 0 to 1; channels lie along `axis`."""
    limits, zero = np.iinfo(code.zero_point.dtype), int(code.zero_point)
    scale = code.scales[group if len(code.scales) > 1 else 0]
    low, high = scale * (limits.min - zero), scale * (limits.max - zero)
    factors = np.ones(1) if code.multipliers is None else code.multipliers
    activation = np.moveaxis(values.astype(np.float64), axis, -1)
    energy = float(np.square(activation).sum())
    over = (activation * factors - np.clip(activation * factors, low, high)) / factors
    return float(np.square(over).sum()) / energy if energy else 0.0


def worst_section(qualities: Iterable[Quality]) -> Html | None:
    """A table for each body of which it is known; None if it is known of none."""
    worst_samples = [(quality.body, quality.worst) for quality in qualities if quality.worst is not None]
    if not worst_samples:
        return None
    lead = paragraph(
        "float32 runs along the seed that int8 changed most, and along the median one. The activations that lose most "
        "of their energy to the limits of their ranges are listed. Where the worst loses more than the median, its "
        "values leave the ranges: calibrate on conditions as they are deployed, and on 64 trajectories, the default. "
        "Where it does not, rounding is left.",
        kind="lead",
    )
    return section("The worst sample", lead, *(_body(name, worst) for name, worst in worst_samples))


def _body(name: str, worst: WorstSample) -> Html:
    seeds = join([f"seed {worst.seed} with ", decibel(worst.psnr), f", median seed {worst.median} with "])
    lead = paragraph(Html("<b>"), name, Html("</b>: "), seeds, decibel(worst.median_psnr))
    if not worst.clipped:
        return join(
            [lead, paragraph("No activation loses ", percent(LEAST, 2), " of its energy to clipping.", kind="note")]
        )
    rows = [
        (each.activation, count(each.step + 1), _energy(each.worst), _energy(each.median)) for each in worst.clipped
    ]
    return join([lead, table(HEAD, rows)])


def _energy(share: float) -> Html:
    return percent(share, 2) if share >= LEAST else data(share, "none")
