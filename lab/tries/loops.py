"""Solvers and grids against loops in float64 that were written from the papers, without fewstep's classes."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from lab.tries.attempt import Attempt, check_close

Array = NDArray[np.float64]
X0 = Callable[[Array, float, float], Array]  # x, alpha, sigma -> predicted sample
Draw = Callable[[int], Array]
Levels = list[tuple[float, float, float]]  # network time, alpha, sigma of each evaluation, and of the end

SHAPE = (2, 3, 4)
T = 1000


def predict(x: Array, alpha: float, sigma: float) -> Array:
    """A predicted sample that is not linear in x."""
    return np.tanh(0.8 * alpha * x + 0.1) * (0.5 + alpha / (alpha + sigma + 1))


def alpha_bars(kind: str) -> Array:
    index = np.arange(T)
    if kind == "linear":
        betas = np.linspace(1e-4, 0.02, T)
    elif kind == "scaled-linear":
        betas = np.linspace(math.sqrt(1e-4), math.sqrt(0.02), T) ** 2
    else:  # cosine, of Nichol and Dhariwal
        f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        betas = np.array([min(0.999, 1 - f((i + 1) / T) / f(i / T)) for i in index])
    return np.cumprod(1 - betas)


def levels_of(kind: str, grid: str, steps: int) -> Levels | None:
    """Return the levels of a grid, or None if the paper has no such grid for the schedule."""
    if kind == "flow":
        if grid == "trailing":
            times = [1 - i / steps for i in range(steps)]
        elif grid.startswith("flow_shift"):
            k = float(grid.partition("=")[2].rstrip(")"))
            even = [1 - i / steps for i in range(steps)]
            times = [k * s / (1 + (k - 1) * s) for s in even]
        elif grid == "sway":
            even = [1 - i / steps for i in range(steps)]
            times = [s + (math.cos(math.pi / 2 * (1 - s)) - s) for s in even]
        else:
            return None
        return [(T * t, 1 - t, t) for t in times] + [(0.0, 1.0, 0.0)]
    bars = alpha_bars(kind)
    at = lambda t: (float(t), math.sqrt(bars[t]), math.sqrt(1 - bars[t]))  # noqa: E731
    if grid == "trailing":
        ts = [round(T - i * T / steps) - 1 for i in range(steps)]
    elif grid == "leading":
        ts = [i * (T // steps) for i in reversed(range(steps))]
    elif grid == "linspace":
        ts = [round(v) for v in np.linspace(T - 1, 0, steps)]
    else:
        return None
    return [at(t) for t in ts] + [(0.0, 1.0, 0.0)]


def rho(level: tuple[float, float, float]) -> float:
    return level[2] / level[1] if level[1] else math.inf


def lam(level: tuple[float, float, float]) -> float:
    return math.log(level[1] / level[2]) if level[2] else math.inf


def ddim(x: Array, levels: Levels, x0: X0, draw: Draw, eta: float = 0.0) -> Array:
    """Equations 12 and 16 of DDIM, with a and b the roots of alpha bar."""
    number = 1
    for (_, a, s), (_, b, r) in zip(levels, levels[1:], strict=False):
        p = x0(x, a, s)
        eps = (x - a * p) / s
        noise = eta * math.sqrt((1 - b**2) / (1 - a**2)) * math.sqrt(max(0.0, 1 - a**2 / b**2)) if eta else 0.0
        x = b * p + math.sqrt(max(0.0, r**2 - noise**2)) * eps
        if noise:
            x = x + noise * draw(number)
            number += 1
    return x


def heun(x: Array, levels: Levels, x0: X0, draw: Draw) -> Array:
    """Heun's method in tau = sigma / (alpha + sigma), the time that its page states. The last step is Euler's."""
    for (_, a, s), (_, b, r) in zip(levels, levels[1:], strict=False):
        z, h = x / (a + s), r / (b + r) - s / (a + s)
        p = x0(x, a, s)
        d = (x - a * p) / s - p
        x = (b + r) * (z + h * d)
        if r:
            p = x0(x, b, r)
            x = (b + r) * (z + h / 2 * (d + (x - b * p) / r - p))
    return x


def dpmpp_2m(x: Array, levels: Levels, x0: X0, draw: Draw) -> Array:
    """Algorithm 2 of DPM-Solver++. The first step, and one from or to an infinite lambda, is of first order."""
    before: tuple[Array, float] | None = None
    for now, after in zip(levels, levels[1:], strict=False):
        (a, s), (b, r) = now[1:], after[1:]
        p = x0(x, a, s)
        if r == 0 or s == 0 or a == 0:
            x = b * p + (r / s) * (x - a * p)
        else:
            h = lam(after) - lam(now)
            d = p
            if before is not None and math.isfinite(before[1]):
                ratio = (lam(now) - before[1]) / h
                d = (1 + 1 / (2 * ratio)) * p - 1 / (2 * ratio) * before[0]
            x = r / s * x - b * math.expm1(-h) * d
        before = p, (lam(now) if a else -math.inf)
    return x


def renoise(x: Array, levels: Levels, x0: X0, draw: Draw) -> Array:
    number = 1
    for (_, a, s), (_, b, r) in zip(levels, levels[1:], strict=False):
        x = b * x0(x, a, s)
        if r:
            x = x + r * draw(number)
            number += 1
    return x


def lms(order: int) -> Callable[[Array, Levels, X0, Draw], Array]:
    """Adams-Bashforth in rho with exact integrals of Lagrange's polynomials, on x / alpha."""

    def run(x: Array, levels: Levels, x0: X0, draw: Draw) -> Array:
        slopes: list[tuple[float, Array]] = []
        for now, after in zip(levels, levels[1:], strict=False):
            (a, s), (b, r) = now[1:], after[1:]
            p = x0(x, a, s)
            if a == 0:
                x = b * p + r / s * x
                continue
            slopes = [(rho(now), (x / a - p) / rho(now)), *slopes][:order]
            points, low, high = [point for point, _ in slopes], rho(now), rho(after)
            y = x / a
            for j, (_, slope) in enumerate(slopes):
                poly = np.poly1d([1.0])
                for k, point in enumerate(points):
                    if k != j:
                        poly = poly * np.poly1d([1.0, -point]) / (points[j] - point)
                integral = poly.integ()
                y = y + (integral(high) - integral(low)) * slope
            x = b * y
        return x

    return run


SOLVERS: dict[str, Callable[[Array, Levels, X0, Draw], Array]] = {
    "ddim": ddim,
    "ddim(eta=0.6)": lambda *a: ddim(*a, eta=0.6),
    "ddim(eta=1)": lambda *a: ddim(*a, eta=1.0),
    "euler": ddim,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "renoise": renoise,
    "lms_2": lms(2),
    "lms_3": lms(3),
    "lms_4": lms(4),
}


def to_output(prediction: str, x: Array, p: Array, a: float, s: float) -> Array:
    eps = (x - a * p) / s
    return {"epsilon": eps, "sample": p, "v": a * eps - s * p, "flow": eps - p}[prediction]


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    kinds = {
        "linear": ("epsilon", "sample", "v"),
        "scaled-linear": ("epsilon", "sample", "v"),
        "cosine": ("epsilon", "sample", "v"),
        "flow": ("flow", "sample"),
    }
    while number:
        kind = str(random.choice(list(kinds)))
        grids = (
            ["trailing", "sway", f"flow_shift(shift={random.integers(2, 7)})"]
            if kind == "flow"
            else ["trailing", "leading", "linspace"]
        )
        solver, grid = str(random.choice(list(SOLVERS))), str(random.choice(grids))
        if kind == "flow" and "eta" in solver:
            continue
        prediction, steps = (
            str(random.choice(kinds[kind])),
            int(random.choice([1, 2, 3, 4, 5, 7, 8, 10, 13, 20, 25, 40])),
        )
        if grid == "linspace" and steps == 1:
            continue
        levels = levels_of(kind, grid, steps)
        assert levels is not None
        number -= 1
        seed = int(random.integers(2**31))

        def run(
            kind=kind, grid=grid, solver=solver, prediction=prediction, steps=steps, levels=levels, seed=seed
        ) -> None:
            noise = np.random.default_rng(seed).standard_normal((steps + 3, *SHAPE))
            draw = lambda n: noise[n]  # noqa: E731
            plan = compile_plan(f"{solver}:{steps}@{grid}", DenoiserFacts(ScheduleSpec(kind), prediction))  # type: ignore[arg-type]
            seen: list[float] = []

            def network(index, step, u):  # type: ignore[no-untyped-def]
                seen.append(step.time)
                return [to_output(prediction, u, predict(u, step.alpha, step.sigma), step.alpha, step.sigma)]

            own = finish(plan, execute(plan, network, draw, np.float64), np.float64)
            right = SOLVERS[solver](levels[0][2] * noise[0], levels, predict, draw)
            check_close(own, right, 1e-7)
            if solver not in ("heun",):
                check_close(seen, [t for t, _, _ in levels[:-1]], 1e-9, "times")

        yield Attempt(f"{solver}:{steps}@{grid} of {prediction} on {kind}", run, may_refuse=False)
