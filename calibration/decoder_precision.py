"""The operations of a decoder that stay in float: those that cause much of the error of pictures for little time."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.decoded import decode, relative_to_peak
from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.lowering.quantize import make_quantizer, select_measured_ops
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.policy import CalibrationPolicy
from fewstep.calibration.precision.mixed_precision import default_float_count, float_times
from fewstep.calibration.precision.operation_errors import measure_operation_errors
from fewstep.calibration.precision.ranking import rank_operations
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.second_moments import FloatSample
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.metrics import PEAK, Floats
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, LoadedGraph

MEASURED = 4  # samples whose pictures measure the errors of operations: decoding takes longer than a step
LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class DecodedSamples:
    """Latents [N, *shape] and what float32's decoder makes of them, on which errors of its operations are measured."""

    graph: Graph
    latents: Floats
    conditions: Arrays
    decoded: Sequence[Floats]
    groups: int = 1

    @property
    def sample(self) -> Floats:
        return self._join(self.decoded)

    def run_samples(self, graphs: Sequence[LoadedGraph]) -> Floats:
        """Return what a decoder makes of the latents."""
        return self._join(decode(graphs[0], self.graph, self.latents, self.conditions))

    def _join(self, outputs: Sequence[Floats]) -> Floats:
        """Return the outputs of each sample as one row [N, values]."""
        parts = [relative_to_peak(*pair) for pair in zip(outputs, self.decoded, strict=True)]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def select_decodable(decoder: Graph, samples: Sequence[FloatSample]) -> list[FloatSample]:
    """Return the samples of a size that a decoder takes. Raises UserError if there are none."""
    axes = decoder.inputs[0].shape[1:]

    def is_taken(shape: Sequence[int]) -> bool:
        return all(isinstance(axis, str) or axis == size for size, axis in zip(shape, axes, strict=True))

    if not (taken := [sample for sample in samples if is_taken(sample.x.shape[1:])]):
        raise UserError("samples that give its ranges have another size", "calibrate without --size")
    return taken


def decode_first(
    graph: Graph, samples: Sequence[FloatSample], decode_float: Callable[[Floats, Arrays], list[Floats]]
) -> DecodedSamples:
    """Return float32's first samples of one size with what `decode_float`, float32's decoder, makes of them."""
    first = [sample for sample in samples if sample.x.shape == samples[0].x.shape][:MEASURED]
    latents = np.concatenate([sample.x for sample in first])
    names = [entry.name for entry in graph.inputs[1:]]
    conditions = {name: np.concatenate([sample.conditions[name] for sample in first]) for name in names}
    return DecodedSamples(graph, latents, conditions, decode_float(latents, conditions))


def select_decoder_floats(
    samples: DecodedSamples,
    table: RangesTable,
    target: Target,
    body_psnr: NDArray[np.float64],
    most_losses: Sequence[float],
    steps: int,
    runs: int,
    policy: CalibrationPolicy,
) -> list[tuple[str, ...]]:
    """Return the names of the operations of a decoder that stay in float, without repetitions: for each of
    `most_losses`, those by the rule for the steps, or more if it then loses no more than that in dB, up to the time of
    `CalibrationPolicy.furthest`. The first may be all: then no int8 of the decoder is worth its loss.

    body_psnr: the PSNR in dB of the pictures that float32's decoder makes of a body's samples, [pictures], whose errors
        add to that of the decoder. steps: the multiply-accumulates of all steps of a call. runs: how many runs may
        measure errors.
    """
    graph = samples.graph
    quantize = make_quantizer(target)
    errors = measure_operation_errors(graph, table, target, samples, quantize, runs, policy.remainder)
    ops = select_measured_ops(graph, table, target.scheme)
    macs = sum(count_operation_macs(graph).values())
    share = macs / (macs + steps)
    times = share * float_times(graph, errors.operations, target.slower(graph, ops), policy)
    ranking = replace(rank_operations(errors, times), others=PEAK**2 * 10 ** (-body_psnr / 10))
    usual, is_fast = default_float_count(ranking, policy), ranking.time <= policy.furthest * share
    lost = body_psnr.mean() - ranking.quality
    chosen = list[tuple[str, ...]]()
    for most in most_losses:
        enough = np.flatnonzero((lost <= most) & is_fast)
        count = usual if lost[usual] <= most or not len(enough) else int(enough[0])
        names = ranking.first_operations(count)
        has_int8 = len(names) < len(errors.operations)  # `lower_graph` refuses a decoder without
        if names in chosen or (chosen and not (has_int8 and lost[count] <= most)):
            continue
        chosen.append(names)
        added, gained = 100 * ranking.time[count], ranking.quality[count] - ranking.quality[0]
        what = "%s: %d of %d operations of the decoder in float gain %.1f dB of the pictures, and add %.2f %% of a call"
        LOG.info(what, target.name, count, len(errors.operations), gained, added)
    return chosen
