"""Guidance, clips, thresholds and rescaling against their formulas, along a plan of DDIM."""

import math
from collections.abc import Iterator

import numpy as np

from fewstep.plans.compile import compile_plan
from fewstep.plans.guidance import Branches, Cfg, CfgPlusPlus
from fewstep.plans.shaping import Clip, MatchNorm, Rescale, Threshold
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from lab.tries.attempt import Attempt, check_close
from lab.tries.loops import T, alpha_bars

SHAPE = (3, 2, 4, 5)


def branch_output(name: str, x: np.ndarray, time: float) -> np.ndarray:
    phase = {"cond": 0.3, "uncond": -0.4, "style": 1.1, "perturbed": 0.0}[name]
    return np.tanh(x + phase) * (1 + 0.1 * math.sin(time / 90 + phase))


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    bars = alpha_bars("linear")
    for _ in range(number):
        steps, prediction = int(random.integers(1, 9)), str(random.choice(["epsilon", "v", "sample"]))
        form = str(random.choice(["weight", "list", "interval", "cfg++", "branches"]))
        shaped = None if form == "cfg++" else str(random.choice(["none", "clip", "threshold", "rescale", "norm"]))
        w, many = float(random.uniform(0.2, 9)), [float(v) for v in random.uniform(0.5, 6, steps)]
        low, seed = float(random.uniform(-4, 0)), int(random.integers(2**31))
        phi, quantile = float(random.uniform(0.1, 1)), float(random.uniform(0.6, 0.99))

        def run(
            steps=steps,
            prediction=prediction,
            form=form,
            shaped=shaped,
            w=w,
            many=many,
            low=low,
            seed=seed,
            phi=phi,
            quantile=quantile,
        ):  # type: ignore[no-untyped-def]
            noise = np.random.default_rng(seed).standard_normal((1, *SHAPE))
            guide = {
                "weight": Cfg(w),
                "list": Cfg(tuple(many)),
                "interval": Cfg(w, (low, low + 3)),
                "cfg++": CfgPlusPlus(min(w / 9, 1)),
                "branches": Branches({"cond": w, "uncond": 1 - w - 0.5, "style": 0.5}),
            }[form]
            shape = {
                None: None,
                "none": None,
                "clip": Clip(-0.8, 0.9),
                "threshold": Threshold(quantile),
                "rescale": Rescale(phi),
                "norm": MatchNorm(-3),
            }[shaped]
            plan = compile_plan(
                f"ddim:{steps}@trailing", DenoiserFacts(ScheduleSpec("linear"), prediction), guide, shape
            )
            own = finish(
                plan,
                execute(
                    plan,
                    lambda i, step, u: [branch_output(b, u, step.time) for b in step.branches],
                    lambda n: noise[n],
                    np.float64,
                ),
                np.float64,
            )
            ts = [round(T - i * T / steps) - 1 for i in range(steps)]
            x = math.sqrt(1 - bars[ts[0]]) * noise[0]
            for i, t in enumerate(ts):
                a, s = math.sqrt(bars[t]), math.sqrt(1 - bars[t])
                b, r = (math.sqrt(bars[ts[i + 1]]), math.sqrt(1 - bars[ts[i + 1]])) if i + 1 < steps else (1.0, 0.0)
                c, u = branch_output("cond", x, t), branch_output("uncond", x, t)
                weight = {"weight": w, "list": many[i], "interval": w if low <= math.log(a / s) < low + 3 else 1.0}.get(
                    form, w
                )
                if form == "cfg++":
                    g = min(w / 9, 1)
                    as_x0 = lambda o: {"epsilon": (x - s * o) / a, "v": a * x - s * o, "sample": o}[prediction]  # noqa: E731,B023
                    p, q = as_x0(u) + g * (as_x0(c) - as_x0(u)), as_x0(u)
                    x = b * p + r * (x - a * q) / s
                    continue
                if form == "branches":
                    o = w * c + (0.5 - w) * u + 0.5 * branch_output("style", x, t)
                else:
                    o = u + weight * (c - u)
                axes = tuple(range(1, 4))
                if shaped == "rescale" and not (form == "interval" and weight == 1.0):
                    o = phi * o * c.std(axes, keepdims=True) / o.std(axes, keepdims=True) + (1 - phi) * o
                if shaped == "norm" and not (form == "interval" and weight == 1.0):
                    o = o * np.linalg.norm(c, axis=1, keepdims=True) / np.linalg.norm(o, axis=1, keepdims=True)
                p = {"epsilon": (x - s * o) / a, "v": a * x - s * o, "sample": o}[prediction]
                eps = (x - a * p) / s
                if shaped == "clip":
                    p = np.clip(p, -0.8, 0.9)
                if shaped == "threshold":
                    high = np.maximum(1, np.quantile(np.abs(p).reshape(3, -1), quantile, axis=1))[:, None, None, None]
                    p = np.clip(p, -high, high) / high
                if shaped in ("clip", "threshold"):
                    eps = (x - a * p) / s
                x = b * p + r * eps
            check_close(own, x, 1e-8)

        yield Attempt(
            f"{form} w={w:.3g} {shaped} of {prediction} in {steps}",
            run,
            may_refuse=form != "weight" or shaped in ("rescale", "norm"),
        )
