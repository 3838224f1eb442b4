"""What a recorded pipeline passes to its scheduler, as the fields that a bundle stores for plans scheduler:N."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewstep.export.sources.diffusers.recording.record import CallRecord
from fewstep.export.sources.diffusers.recording.stand_ins import unrecorded

KNOWN = {"num_inference_steps", "device", "sigmas", "mu"}


def find_rules(name: str, records: Sequence[CallRecord], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields `even` and `mu`, as `plans.configs.pipelines.RecordedRules` reads them. mu is [a, b] of a + b
    N for N steps. Raises UserError if a pipeline passes other times than even sigmas."""
    even, mus = set(), []
    for record in records:
        times = {key: value for key, value in record.times.items() if value is not None}
        if other := sorted(set(times) - KNOWN):
            raise unrecorded(f"{name} passes {', '.join(other)} to its scheduler")
        sigmas = times.get("sigmas")
        count = len(sigmas) if sigmas is not None else int(times["num_inference_steps"])
        if sigmas is not None and not np.allclose(sigmas, np.linspace(1.0, 1 / count, count), atol=1e-6):
            raise unrecorded(f"{name} passes sigmas to its scheduler that are not even from 1 to 1 / N")
        even.add(sigmas is not None)
        if "mu" in times and scheduler.get("use_dynamic_shifting"):
            mus.append((count, float(times["mu"])))
    if len(even) != 1:
        raise unrecorded(f"{name} passes sigmas to its scheduler in some calls only")
    return {"even": even.pop(), "mu": _fit_mu(name, mus)}


def _fit_mu(name: str, mus: Sequence[tuple[int, float]]) -> list[float] | None:
    if not mus:
        return None
    counts, values = (np.array(each, np.float64) for each in zip(*mus, strict=True))
    if np.ptp(values) < 1e-9:
        return [float(values[0]), 0.0]
    (slope, start), *_ = np.linalg.lstsq(np.stack([counts, np.ones_like(counts)], axis=1), values, rcond=None)
    if len(set(counts)) < 3 or np.abs(start + slope * counts - values).max() > 1e-6:
        raise unrecorded(f"{name} passes a mu to its scheduler that is no linear function of the steps")
    return [float(start), float(slope)]
