"""A trial: the plan of any diffusers scheduler, from its class, by basis vectors through its step.

A scheduler keeps x and other tensors of x's shape. Before each step every one of them becomes a basis vector, as does
the network's output, what clips and thresholds make, and each draw. After it they are the rows of the update. Rows that
nothing reads later are left out. `python -m benchmarks.schedulers.extraction CONFIGS.json` compares plans with the
oracle of the tests, for a list of [class, config, steps].
"""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep.plans.plan import SCHEMA, Plan, Step
from fewstep.plans.shaping import Clip, Shaping, Threshold

ROWS, DRAWS = 24, 4  # most that a step has room for
OUTPUT, SHAPED, FIRST = ROWS, ROWS + 1, ROWS + 2
WIDTH = FIRST + DRAWS
COUNTS = (1, 2, 8, 25, 50)
Array = NDArray[np.float64]


class NotAffineError(Exception):
    """A step that no row describes."""


@dataclass(frozen=True)
class Taken:
    """A step: how many rows it reads, its network input, its shaping and the rows after it."""

    time: float
    before: int
    input: Array
    shaped: tuple[Array, Shaping] | None
    rows: list[Array]
    draws: int


def extract_plan(scheduler: Any, steps: int, **options: Any) -> Plan:
    """The plan of a scheduler, its tables read in float64 as the tests' oracle reads them."""
    known = inspect.signature(scheduler.step).parameters
    for_step = {name: options.pop(name) for name in list(options) if name in known}
    scheduler.set_timesteps(steps, **options)
    table = "sigmas" if hasattr(scheduler, "sigmas") else "alphas_cumprod"
    if isinstance(getattr(scheduler, table, None), torch.Tensor):
        setattr(scheduler, table, getattr(scheduler, table).double())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    start, taken, x = float(getattr(scheduler, "init_noise_sigma", 1.0)), list[Taken](), _unit(0)
    draws, shaped = list[Any](), list[tuple[Array, Shaping]]()
    with _caught(scheduler, draws, shaped):
        for t in scheduler.timesteps:
            draws.clear()
            shaped.clear()
            numbers, x = {id(x): 0}, _unit(0)
            for box, key, value in list(_kept(scheduler)):
                number = numbers.setdefault(id(value), len(numbers))
                if number >= ROWS:
                    raise NotAffineError("more rows than there is room for")
                box[key] = x if number == 0 else _unit(number, value.dtype)
            u = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(_unit(OUTPUT, u.dtype), t, x, **for_step).prev_sample
            if not _is_state(x) or any(not np.allclose(shaped[0][0], each[0]) for each in shaped):
                raise NotAffineError("another shape, or two shapings")
            rows, seen = [_row(x)], {id(x)}
            for _, _, value in _kept(scheduler):
                if id(value) not in seen:
                    seen.add(id(value))
                    rows.append(_row(value))
            taken.append(Taken(float(t), len(numbers), _row(u), next(iter(shaped), None), rows, len(draws)))
    return _assembled(taken, start)


def _unit(number: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    value = torch.zeros(1, WIDTH, 1, 1, dtype=dtype)
    value[0, number] = 1
    return value


def _row(value: torch.Tensor) -> Array:
    return np.array(value.double().numpy().ravel())


def _is_state(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == (1, WIDTH, 1, 1)


def _kept(scheduler: Any) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """The (container, key, tensor) of all tensors of x's shape that a scheduler keeps."""
    for name, value in list(vars(scheduler).items()):
        if _is_state(value):
            yield vars(scheduler), name, value
        elif isinstance(value, list):
            yield from ((value, i, each) for i, each in enumerate(value) if _is_state(each))


def _caught(scheduler: Any, draws: list[Any], shaped: list[tuple[Array, Shaping]]) -> ExitStack:
    """Patches that make basis vectors of a scheduler's draws and of what it clips."""
    real = torch.Tensor.clamp

    def randn(*_: Any, dtype: Any = None, **__: Any) -> torch.Tensor:
        draws.append(None)
        return _unit(FIRST + len(draws) - 1, dtype or torch.float64)

    class Brownian:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.before: tuple[float, Any] = (0.0, 0.0)

        def __call__(self, s: Any, t: Any) -> torch.Tensor:
            first, between = self.before
            if first != float(s):
                self.before, scheduler.__dict__["_drawn"] = (float(s), t), randn()
                return scheduler.__dict__["_drawn"]
            share = (s - between) / (s - t)
            return share.sqrt() * scheduler.__dict__["_drawn"] + (1 - share).sqrt() * randn()

    def clamp(value: Any, *ends: Any, **named: Any) -> torch.Tensor:
        if not _is_state(value):
            return real(value, *ends, **named)
        low, high = (*ends, named.get("min"), named.get("max"))[:2]
        shaped.append((_row(value), Clip(float(low), float(high))))
        return _unit(SHAPED, value.dtype)

    def threshold(value: torch.Tensor) -> torch.Tensor:
        most = float(scheduler.config.sample_max_value)
        kind = Clip(-1.0, 1.0) if most <= 1 else Threshold(scheduler.config.dynamic_thresholding_ratio, most)
        shaped.append((_row(value) / min(most, 1.0), kind))
        return _unit(SHAPED, value.dtype)

    patches, module = ExitStack(), sys.modules[type(scheduler).__module__]
    for place, name, value in (
        *((torch.Tensor, "clamp", clamp), (torch, "clamp", clamp), (scheduler, "_threshold_sample", threshold)),
        *((module, "randn_tensor", randn), (module, "BrownianTreeNoiseSampler", Brownian)),
    ):
        if hasattr(place, name):
            patches.enter_context(mock.patch.object(place, name, value))
    return patches


def _assembled(taken: list[Taken], start: float) -> Plan:
    """The plan of the rows that are read later. Its times have no alpha and sigma: no scheduler says them."""
    live, reads = {0}, list[tuple[Taken, list[int], list[int]]]()
    for step in reversed(taken):
        kept = sorted(live)
        rows = [step.input, *(step.rows[i] for i in kept)]
        if step.shaped is not None:
            rows.append(step.shaped[0])
        live = {0} | {j for row in rows for j in range(step.before) if row[j]}
        reads.append((step, sorted(live), kept))
    width, number, steps = max(max(len(before), len(kept)) for _, before, kept in reads), 1, list[Step]()
    for step, before, kept in reversed(reads):
        used = [FIRST + j for j in range(step.draws) if any(step.rows[i][FIRST + j] for i in kept)]
        shaped = step.shaped if any(step.rows[i][SHAPED] for i in kept) else None

        def columns(row: Array, more: list[int], before: list[int] = before) -> tuple[float, ...]:
            return (*(float(row[j]) for j in before), *(0.0,) * (width - len(before)), *(float(row[j]) for j in more))

        more = [OUTPUT, *([SHAPED] if shaped else []), *used]
        update = [columns(step.rows[i], more) for i in kept]
        made = Step(
            network="denoiser",
            time=step.time,
            to=None,
            lam=0.0,
            alpha=None,
            sigma=None,
            group=0,
            branches=("cond",),
            heads=1,
            input=columns(step.input, []),
            shaping=shaped[1] if shaped else None,
            shaping_of=(columns(shaped[0], [OUTPUT]),) if shaped else (),
            x0=(0.0,) * (width + 1 + bool(shaped)),
            update=tuple(update + [(0.0,) * len(update[0])] * (width - len(update))),
            terms=(),
            draws=tuple(range(number, number + len(used))),
        )
        steps.append(made)
        number += len(used)
    rest = ((0.0,),) * (width - 1)
    return Plan(
        schema=SCHEMA,
        name="extracted",
        schedule="",
        prediction="epsilon",
        guidance=None,
        strength=None,
        rows=width,
        given=(),
        start=((start,), *rest),
        start_terms=(),
        start_draws=(0,),
        steps=tuple(steps),
        output=(1.0,) + (0.0,) * (width - 1),
        tensors=(),
    )


def outcome(name: str, config: dict[str, Any], steps: int) -> str:
    """Whether the extracted plan has the oracle's rows and samples."""
    from tests.plans.parity.config_parity import is_linear, made
    from tests.plans.parity.extract import assert_same_rows, assert_same_trajectory, extract, unroll

    arguments = config.get("arguments", {})
    config = {name: value for name, value in config.items() if name != "arguments"}
    try:
        if not np.isfinite(extract(made(name, config)[0], steps, **arguments).sample).all():
            return "diffusers has no sample"
    except Exception:  # any of diffusers
        return "diffusers has no sample"
    try:
        scheduler, written = made(name, config)
        plan = extract_plan(scheduler, steps, **arguments)
        if is_linear(written):
            assert_same_rows(unroll(plan), extract(made(name, config)[0], steps, **arguments))
        assert_same_trajectory(plan, made(name, config)[0], steps, **arguments)
    except NotAffineError:
        return "refused"
    except AssertionError:
        return "differs"
    return "equal"


if __name__ == "__main__":
    listed = json.loads(Path(sys.argv[1]).read_text())
    print(Counter(outcome(*each) for each in listed))
    print(Counter(outcome(name, config, steps) for name, config, _ in listed[::2] for steps in COUNTS))
