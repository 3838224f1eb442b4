"""What a recorded pipeline passes to its scheduler, as the fields that a bundle stores for plans scheduler:N."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fewstep.export.sources.diffusers.recording.call_record import CallRecord
from fewstep.export.sources.diffusers.recording.stand_ins import recording_error

LISTED = 50  # steps for which sigmas are listed
KNOWN = {"num_inference_steps", "device", "sigmas", "mu"}


def find_rules(
    name: str,
    records: Sequence[CallRecord],
    scheduler: Mapping[str, Any],
    sigmas_of: Callable[[int], Sequence[float] | None],
) -> dict[str, Any]:
    """Return the fields that `plans.configs.pipelines.read_recorded` reads: `even`, `mu`, `eta` and `sigmas`.

    mu is [a, b] of a + b N for N steps. Sigmas that are not evenly spaced are listed for each number of steps up to
    `LISTED`, from `sigmas_of`. Raises UserError if a pipeline passes other times.
    """
    even, mus, listed = set(), [], None
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
    rules: dict[str, Any] = {"even": even.pop(), "mu": _fit_mu(name, mus)}
    if (eta := etas.pop()) is not None:
        rules["eta"] = eta
    return rules if listed is None else {**rules, "sigmas": listed}


def _list_sigmas(name: str, sigmas_of: Callable[[int], Sequence[float] | None]) -> list[list[float]]:
    """Return the sigmas for 1 step, for 2 steps, and so on; an empty list where the pipeline passes none."""
    listed = []
    for count in range(1, LISTED + 1):
        sigmas = sigmas_of(count)
        listed.append([] if sigmas is None or len(sigmas) != count else [float(each) for each in sigmas])
    if not any(listed):
        raise recording_error(f"{name} passes a number of sigmas to its scheduler that is not the number of steps")
    return listed


def _fit_mu(name: str, mus: Sequence[tuple[int, float]]) -> list[float] | None:
    if not mus:
        return None
    counts, values = (np.array(each, np.float64) for each in zip(*mus, strict=True))
    if np.ptp(values) < 1e-9:
        return [float(values[0]), 0.0]
    (slope, start), *_ = np.linalg.lstsq(np.stack([counts, np.ones_like(counts)], axis=1), values, rcond=None)
    if len(set(counts)) < 3 or np.abs(start + slope * counts - values).max() > 1e-6:
        raise recording_error(f"{name} passes a mu to its scheduler that is not a linear function of the steps")
    return [float(start), float(slope)]
