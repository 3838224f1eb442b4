"""Samples of a denoiser's data in a file, against which a spec is checked."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.estimate import Estimate
from fewstep.measure.rollouts.conditions_file import ConditionRecords, check_records, read_arrays
from fewstep.measure.rollouts.data_distance import FEWEST
from fewstep.measure.sampling import FLOAT
from fewstep.measure.spec.null_values import UNTESTED
from fewstep.measure.spec.reading_errors import Network
from fewstep.measure.spec.spec_check import USUAL_EVALUATIONS, SpecCheck, check_spec
from fewstep.plans.errors import UserError
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime.arrays import Float32, as_finite
from fewstep.runtime.bundle.conditions import null
from fewstep.runtime.bundle.manifest import Description
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.prologue_rows import TIME

STAGE = "check"
TIMED_CALL = 3  # of the check


@dataclass(frozen=True)
class DataSamples:
    """Samples x [N, *x_shape] of a file, and their conditions [N, *shape] by name."""

    x: Float32
    conditions: ConditionRecords

    def check(
        self, network: Network, denoiser: Description, null_files: ConditionRecords, progress: Progress = SILENT
    ) -> SpecCheck:
        """Check a network against these samples. `null_files` holds the null values [*shape] that are stored as arrays,
        by condition name."""
        with_null = [
            condition for condition in denoiser.conditions if condition.null is not None or condition.name in null_files
        ]
        nulls = {
            condition.name: null(condition, self.conditions[condition.name], null_files) for condition in with_null
        }
        without = [
            condition.name for condition in denoiser.conditions if condition.name not in nulls and not condition.shared
        ]
        facts = DenoiserFacts(denoiser.schedule, denoiser.prediction)
        shown = _ShownNetwork(network, progress)
        found = check_spec(shown, facts, self.x, self.conditions, None if without else nulls)
        progress(STAGE, USUAL_EVALUATIONS, USUAL_EVALUATIONS)
        if nulls and without and not found.mistake:  # there is no unconditional branch
            reason = f"whether {UNTESTED}, since {', '.join(map(repr, without))} has none"
            return msgspec.structs.replace(found, unknown=(reason, *found.unknown))
        return found


@dataclass
class _ShownNetwork:
    """A network that shows the progress of a check, and announces its duration once a call was timed: later than the
    first one, which allocates memory."""

    network: Network
    progress: Progress
    calls: int = 0
    samples: int = 0

    def __call__(self, x: Float32, times: NDArray[np.float64], conditions: ConditionRecords) -> Float32:
        started = perf_counter()
        output = self.network(x, times, conditions)
        self.calls, self.samples = self.calls + 1, self.samples + len(x)
        if self.calls == TIMED_CALL:
            seconds = (perf_counter() - started) / len(x)
            Estimate(USUAL_EVALUATIONS, USUAL_EVALUATIONS * seconds).announce()
        self.progress(STAGE, min(self.samples, USUAL_EVALUATIONS - 1), USUAL_EVALUATIONS)
        return output


def read_samples(file: Path, denoiser: Description, is_one: bool = True) -> DataSamples:
    """Read samples `x` from a .npz or .safetensors file, with an array named after each condition.

    is_one: whether the denoiser is a single network with a single time. Raises UserError if it is not, since such a
        denoiser cannot be checked.
    """
    arrays = dict(read_arrays(file))
    if denoiser.towards or denoiser.carried or denoiser.heads > 1 or denoiser.prediction == "logits" or not is_one:
        what = "samples can only check the spec of one network with one time and one output, without carried tensors"
        raise UserError(what, "compare samples by eye")
    data = arrays.pop("x", None)
    if data is None or data.shape[1:] != denoiser.x_shape or data.dtype.kind not in "fiu":
        shape = "" if data is None else f", but {data.dtype} {list(data.shape)}"
        fix = f"write numpy.savez(FILE, x=[N, {', '.join(map(str, denoiser.x_shape))}], and each condition)"
        raise UserError(f"{file.name} has no samples x of the denoiser's shape{shape}", fix)
    x = as_finite(data, f"x of {file.name}", "write finite numbers, in the range of the training data")
    return DataSamples(x, check_records(file.name, arrays, denoiser.conditions))


def measure_data(file: Path, denoiser: Description) -> tuple[float, tuple[float, float] | None]:
    """Return the largest magnitude in the samples of a file, and the mean and the standard deviation of their values,
    which are None for fewer than FEWEST samples."""
    x = read_samples(file, denoiser).x.astype(np.float64)
    return float(np.abs(x).max()), (float(x.mean()), float(x.std())) if len(x) >= FEWEST else None


def check_bundle(bundle: Bundle, file: Path, progress: Progress = SILENT) -> SpecCheck:
    """Check whether a bundle's float32 body and its spec agree with the samples in a file."""
    manifest, sampler = bundle.manifest, load(bundle.path, body=FLOAT)
    samples = read_samples(file, manifest, not manifest.networks and not sampler.network().inputs.has_second_time)

    def network(x: Float32, times: NDArray[np.float64], conditions: ConditionRecords) -> Float32:
        return sampler.network().evaluate(x, {TIME: times.astype(np.float32), **conditions}, 0)

    return samples.check(network, manifest, sampler.network().nulls, progress)
