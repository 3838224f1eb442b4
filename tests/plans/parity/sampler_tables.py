"""The oracle: another library's sampler as a table, to compare a plan with.

A sampler without clipping is linear in its start, the network's outputs and its noise. Run on basis vectors (the start
is e_0, the k-th output E_k, the j-th draw z_j) every network input, and the sample, comes out as the row of its
coefficients. A plan is unrolled the same way, by the reference executor, and rows are compared as they are.

    rows = extract(scheduler, 10)                     # any diffusers scheduler; keywords go to its set_timesteps
    assert_same_rows(unroll(plan), rows)              # 1e-5 of each row's maximum
    assert_same_trajectory(plan, scheduler, 10)       # the same on nonlinear denoisers, 5e-5
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import execute, finish

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

Array = NDArray[np.float64]
Denoiser = Callable[[Array, float], Array]  # (network input, network time) -> output

ROW_TOLERANCE = 1e-5  # of the row's largest coefficient
TRAJECTORY_TOLERANCE = 5e-5  # of the sample's largest element
USED = 1e-5  # of the largest coefficient of a draw: one with less is not used
TIME_TOLERANCE = 2e-3  # timesteps that another library interpolates in float32
EVALUATIONS, DRAWS = 160, 80  # most that a table has room for


@dataclass(frozen=True)
class Unrolled:
    """Rows over [start, outputs, used draws in the order of their use]; `times` are the network's times, `draws` the
    numbers of those draws, of all after the start's.
    """

    times: Array
    inputs: Array
    sample: Array
    draws: tuple[int, ...]


def extract(scheduler: Any, steps: int | None, **options: Any) -> Unrolled:
    """Unroll a diffusers scheduler. `options` are passed to set_timesteps and, where step accepts them, to step."""
    times, inputs = [], []

    def network(u: Array, time: float) -> Array:
        times.append(time)
        inputs.append(u)
        return _basis(len(inputs))

    sample = run_scheduler(scheduler, steps, _basis(0), network, lambda j: _basis(1 + EVALUATIONS + j), **options)
    return _unroll(times, inputs, sample)


def unroll(plan: Plan) -> Unrolled:
    """Unroll a plan with one branch."""

    def network(index: int, step: Any, u: Array) -> list[Array]:
        return [_basis(1 + index)[None]]

    def draws(number: int) -> Array:
        return (_basis(0) if number == 0 else _basis(EVALUATIONS + number))[None]

    states = list(execute(plan, network, draws, np.float64, given={name: _basis(0)[None] for name in plan.given}))
    sample = finish(plan, iter(states), np.float64)[0]
    return _unroll([step.time for step in plan.steps], [state.u[0] for state in states], sample)


def assert_same_rows(ours: Unrolled, theirs: Unrolled, tolerance: float = ROW_TOLERANCE) -> None:
    """Compare times, every network input, and the sample; each row to `tolerance` of its largest coefficient."""
    assert len(ours.times) == len(theirs.times)
    assert ours.times == pytest.approx(theirs.times, rel=1e-6, abs=TIME_TOLERANCE)
    assert ours.sample.shape == theirs.sample.shape, "not the same number of draws"
    for k, (mine, other) in enumerate(zip([*ours.inputs, ours.sample], [*theirs.inputs, theirs.sample], strict=True)):
        distance = np.abs(mine - other).max() / np.abs(other).max()
        assert distance < tolerance, f"row {k} of {len(ours.times)}: {distance:.2e}\n{mine}\n{other}"


def assert_same_trajectory(plan: Plan, scheduler: Any, steps: int | None, **options: Any) -> None:
    """Compare samples from the same noise, on nonlinear denoisers that take the time."""
    theirs, ours = extract(scheduler, steps, **options).draws, unroll(plan).draws
    assert len(ours) == len(theirs), "not the same number of draws"
    for seed in range(2):
        random = np.random.default_rng(seed)
        mix, shift = random.standard_normal((6, 6)) / 3, random.standard_normal(6)
        noise = random.standard_normal((DRAWS, 6))
        same = noise.copy()  # where one draws what it does not use, numbers differ
        same[[1 + j for j in ours]] = noise[[1 + j for j in theirs]]

        def denoiser(u: Array, time: float) -> Array:
            return np.tanh(u @ mix + shift * np.sin(3 + time / 400)) + 0.3 * u  # noqa: B023 - used inside the loop

        expected = run_scheduler(scheduler, steps, noise[0], denoiser, lambda j: noise[1 + j], **options)  # noqa: B023
        sample = run_plan(plan, denoiser, same)
        distance = np.abs(sample - expected).max() / np.abs(expected).max()
        assert distance < TRAJECTORY_TOLERANCE, f"{distance:.2e}\n{sample}\n{expected}"


def run_plan(plan: Plan, denoiser: Denoiser, noise: Array) -> Array:
    """Return a plan's sample. noise: [draws, D], the start first."""
    states = execute(
        plan,
        lambda index, step, u: [denoiser(u[0], step.time)[None]],
        lambda number: noise[number][None],
        np.float64,
        given=dict.fromkeys(plan.given, noise[0][None]),
    )
    return np.asarray(finish(plan, states, np.float64)[0])


def run_scheduler(
    scheduler: Any, steps: int | None, start: Array, denoiser: Denoiser, draw: Callable[[int], Array], **options: Any
) -> Array:
    """Run a scheduler's own loop, in float64 as far as it allows, from `start` x its initial sigma; draw(j) is its
    j-th draw.
    """
    known = inspect.signature(scheduler.step).parameters
    for_step = {key: options.pop(key) for key in list(options) if key in known}
    scheduler.set_timesteps(steps, **options) if steps is not None else scheduler.set_timesteps(**options)
    table = "sigmas" if hasattr(scheduler, "sigmas") else "alphas_cumprod"
    if isinstance(getattr(scheduler, table, None), torch.Tensor):  # its own numbers, but no more rounding in each step
        setattr(scheduler, table, getattr(scheduler, table).double())
    if hasattr(scheduler, "sigmas_down"):
        _ancestral_in_double(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # it looks its first timestep up by value, and of two equal ones takes the second
    for_step |= {"return_dict": True} if "return_dict" in known else {}
    x = torch.from_numpy(start.copy())[None, :, None, None] * getattr(scheduler, "init_noise_sigma", 1.0)
    is_cogvideox = "old_pred_original_sample" in known
    stated, before = [int(t) for t in scheduler.timesteps] if is_cogvideox else [], None
    with _noise(scheduler, draw):
        for i, t in enumerate(scheduler.timesteps):
            u = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = torch.from_numpy(denoiser(u.double().numpy().ravel(), float(t)))[None, :, None, None]
            if is_cogvideox:  # as its pipeline
                x, before = scheduler.step(output, before, stated[i], stated[i - 1] if i else None, x)
                continue
            x = scheduler.step(output, t, x, **for_step).prev_sample.double()
    return np.asarray(x.numpy().ravel())


def _ancestral_in_double(scheduler: Any) -> None:
    """Compute KDPM2's ancestral sigmas again: it takes a difference of squares in float32, which leaves few digits
    in a long step.
    """
    s = scheduler.sigmas[[0, *range(1, len(scheduler.sigmas) - 1, 2)]]  # each once, the 0 at the end too
    t = torch.cat([s[1:], s[-1:]])
    down = torch.nan_to_num(t * t / s)
    between = torch.sqrt(s * down)
    log_sigmas = np.asarray(scheduler.log_sigmas)
    stated = torch.tensor([float(scheduler._sigma_to_t(each.numpy(), log_sigmas)) for each in between[:-2]])
    scheduler.timesteps[1::2] = stated.to(scheduler.timesteps.dtype)
    for name, values in (("down", down), ("up", torch.sqrt(t * t - down * down)), ("interpol", between)):
        setattr(scheduler, f"sigmas_{name}", torch.cat([values[:1], values[1:].repeat_interleave(2), values[-1:]]))


@contextmanager
def _noise(scheduler: Any, draw: Callable[[int], Array]) -> Any:
    """Return a scheduler's draws, in the order of its calls, from `draw`."""
    count = 0

    def randn_tensor(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        nonlocal count
        value = torch.from_numpy(draw(count).copy()).reshape(tuple(shape))
        count += 1
        return value if dtype is None else value.to(dtype)

    module = sys.modules[type(scheduler).__module__]
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", randn_tensor)
        if hasattr(module, "BrownianTreeNoiseSampler"):
            patch.setattr(
                module, "BrownianTreeNoiseSampler", lambda x, *_, **__: _Brownian(lambda: randn_tensor(x.shape))
            )
        yield


class _Brownian:
    """Noise of a step in two parts, from s to u and then from s to t, as increments of one Brownian motion."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        self.draw = draw
        self.before: tuple[float, float, Any] = (0.0, 0.0, None)

    def __call__(self, s: Any, t: Any) -> Any:
        first_s, u, z = self.before
        if first_s != float(s):
            self.before = float(s), float(t), self.draw()
            return self.before[2]
        share = (s - u) / (s - t)
        return share.sqrt() * z + (1 - share).sqrt() * self.draw()


def _basis(index: int) -> Array:
    row = np.zeros(1 + EVALUATIONS + DRAWS)
    row[index] = 1.0
    return row


def _unroll(times: list[float], inputs: list[Array], sample: Array) -> Unrolled:
    """Return the columns that can be nonzero: start, computed outputs, draws that are read."""
    rows = np.array([*inputs, sample])
    first = 1 + EVALUATIONS
    drawn = np.abs(rows[:, first:] / np.abs(rows).max(1, keepdims=True)).max(0)
    used = drawn > USED * drawn.max()
    draws = tuple(int(j) for j in np.flatnonzero(used))
    rows = rows[:, [*range(1 + len(inputs)), *(first + j for j in draws)]]
    return Unrolled(np.array(times), rows[:-1], rows[-1], draws)
