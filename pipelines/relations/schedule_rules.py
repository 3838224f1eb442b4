"""What a recorded pipeline passes to its scheduler, from recordings with several numbers of steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.fit import ROUNDING, fit
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.configs.recorded import Recorded

LISTED = 50  # steps for which sigmas are listed
KNOWN = {"num_inference_steps", "device", "sigmas", "mu"}


def find_rules(
    name: str,
    records: Sequence[CallRecord],
    scheduler: Mapping[str, Any],
    sigmas_of: Callable[[int], Sequence[float] | None],
) -> Recorded:
    """Return what a pipeline passes to its scheduler. Sigmas that are not evenly spaced are listed for each number of
    steps up to `LISTED`, from `sigmas_of`. Raises UserError if a pipeline passes other times.
    """
    even, mus = set[bool](), list[tuple[int, float]]()
    listed: tuple[tuple[float, ...], ...] = ()
    for record in records:
        times = {key: value for key, value in record.times.items() if value is not None}
        if other := sorted(set(times) - KNOWN):
            raise recording_error(f"{name} passes {', '.join(other)} to its scheduler")
        sigmas = times.get("sigmas")
        count = len(sigmas) if sigmas is not None else int(times["num_inference_steps"])
        if sigmas is not None and not np.allclose(sigmas, np.linspace(1.0, 1 / count, count), atol=1e-6):
            listed = listed or _list_sigmas(name, sigmas_of)
        even.add(sigmas is not None)
        if "mu" in times and scheduler.get("use_dynamic_shifting"):
            mus.append((count, float(times["mu"])))
    if len(even) != 1:
        raise recording_error(f"{name} passes sigmas to its scheduler in some calls only")
    etas = {step.eta for record in records for step in record.steps}
    if len(etas) != 1:
        raise recording_error(f"{name} passes several values of eta to its scheduler")
    return Recorded(even.pop(), _fit_mu(name, mus), etas.pop(), listed)


def _list_sigmas(name: str, sigmas_of: Callable[[int], Sequence[float] | None]) -> tuple[tuple[float, ...], ...]:
    """Return the sigmas for 1 step, for 2 steps, and so on; nothing where the pipeline passes none."""
    listed = []
    for count in range(1, LISTED + 1):
        sigmas = sigmas_of(count)
        listed.append(() if sigmas is None or len(sigmas) != count else tuple(map(float, sigmas)))
    if not any(listed):
        raise recording_error(f"{name} passes a number of sigmas to its scheduler that is not the number of steps")
    return tuple(listed)


def _fit_mu(name: str, mus: Sequence[tuple[int, float]]) -> tuple[float, float] | None:
    if not mus:
        return None
    counts, values = (np.array(points, np.float64) for points in zip(*mus, strict=True))
    if np.ptp(values) < 1e-9:
        return float(values[0]), 0.0
    (slope, start), residual = fit([counts, np.ones_like(counts)], values)
    if len(set(counts)) < 3 or residual > ROUNDING:
        raise recording_error(f"{name} passes a mu to its scheduler that is not a linear function of the steps")
    return start, slope
