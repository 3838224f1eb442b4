"""Runs of a bundle: order and batches, tails, holds, strengths, branches, plans for each sample, given noise."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewstep.plans.shaping import Clip
from fewstep.plans.transforms import tail, use_given_noise
from fewstep.runtime import AllSteps, Hold, load
from lab.tries.attempt import Attempt, check_close
from lab.tries.loops import T, alpha_bars
from lab.tries.modules import make_bundle
from lab.tries.odd_networks import build

OPS = ("attention", "norm_layers")
SOLVERS = (
    "ddim",
    "dpmpp_2m",
    "unipc_2",
    "heun",
    "lms_3",
    "ddim(eta=0.7)",
    "dpmpp_2m_sde",
    "renoise",
    "ddpm",
    "dpmpp_sde",
    "sa_solver",
)
FORMS = (
    "order",
    "alone",
    "parts",
    "tail",
    "hold",
    "clean hold",
    "strength",
    "all steps",
    "start noise",
    "negative",
    "plans",
    "noise",
    "given",
    "seeds",
    "repeat",
    "guided rows",
    "clip",
)


def philox_normal(seed: int, number: int, count: int) -> np.ndarray:
    """Philox-4x32-10 by (seed, draw), then Box-Muller, written again with Python's integers."""
    values: list[float] = []
    mask = 2**32 - 1
    for block in range(-(-count // 4)):
        c, k = [block & mask, block >> 32, number, 0], [seed & mask, (seed >> 32) & mask]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        values += c
    return np.array(values, np.float64)[: 4 * -(-count // 4)]


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    sampler = load(make_bundle(Path(tempfile.mkdtemp()), OPS, 8, 5))
    module, _ = build(OPS, 8, 5)
    assert module is not None
    bars = alpha_bars("linear")
    for index in range(number):
        form, solver = FORMS[index % len(FORMS)], str(random.choice(SOLVERS))
        steps, guidance = int(random.integers(2, 9)), float(random.choice([1.0, 2.0, 0.5, 6.5]))
        count, seed = int(random.integers(2, 6)), int(random.integers(2**31))

        def run(form=form, solver=solver, steps=steps, guidance=guidance, count=count, seed=seed) -> None:  # type: ignore[no-untyped-def]
            own = np.random.default_rng(seed)
            plan, seeds = f"{solver}:{steps}@trailing", [int(v) for v in own.integers(0, 2**40, count)]
            c = {"label": own.integers(0, 5, count), "words": own.standard_normal((count, 3)).astype(np.float32)}
            branches = {"uncond": {"label": c["label"][::-1].copy(), "words": -c["words"]}}
            more = {"guidance": guidance, "branches": branches if guidance != 1 else None}
            picture = own.uniform(-1, 1, (count, 2, 8, 8)).astype(np.float32)
            level = lambda t: (math.sqrt(bars[t]), math.sqrt(1 - bars[t]))  # noqa: E731
            if form == "guided rows":
                x = sampler.sample(plan, seeds, c, **more)
                first = next(iter(sampler.steps(plan, seeds, c, **more)))
                u, time = first.u, float(first.step.time) if hasattr(first, "step") else 999.0
                cond = sampler.evaluate(u, 999.0, c)
                uncond = sampler.evaluate(u, 999.0, branches["uncond"]) if guidance != 1 else cond
                o = uncond + guidance * (cond - uncond)
                a, s = level(T - 1)
                check_close(first.x0, (u - s * o) / a, 1e-4)
                assert x.shape == u.shape and time
                return
            base = sampler.sample(plan, seeds, c, **more)
            pick = own.permutation(count)
            at = lambda rows: {k: v[rows] for k, v in c.items()}  # noqa: E731

            def of(rows):  # type: ignore[no-untyped-def]
                uncond = {"uncond": {k: v[rows] for k, v in branches["uncond"].items()}}
                return {"guidance": guidance, "branches": uncond if guidance != 1 else None}

            if form == "order":
                check_close(sampler.sample(plan, [seeds[i] for i in pick], at(pick), **of(pick)), base[pick], 2e-5)
            elif form == "alone":
                check_close(
                    np.concatenate([sampler.sample(plan, [seeds[i]], at([i]), **of([i])) for i in range(count)]),
                    base,
                    2e-5,
                )
            elif form == "parts":
                check_close(
                    np.concatenate(
                        [
                            sampler.sample(plan, seeds[:1], at([0]), **of([0])),
                            sampler.sample(plan, seeds[1:], at(range(1, count)), **of(range(1, count))),
                        ]
                    ),
                    base,
                    2e-5,
                )
            elif form == "tail":
                compiled = sampler.compile(plan, **more)
                k = int(own.integers(1, len(compiled.steps)))
                states = list(sampler.steps(compiled, seeds, c, branches=more["branches"]))
                rest = tail(compiled, k)
                rows = states[k - 1].after
                given = {name: rows[i] for i, name in enumerate(rest.given)}
                check_close(sampler.sample(rest, seeds, c, branches=more["branches"], given=given), base, 1e-6)
            elif form in ("hold", "clean hold"):
                mask = (own.random((1, 1, 8, 8)) < 0.4).astype(np.float32)
                x = sampler.sample(plan, seeds, c, hold=Hold(picture, mask, clean=form == "clean hold"), **more)
                check_close(x * mask, picture * mask, 1e-6)
            elif form == "strength":
                strength = float(own.uniform(0.2, 1))
                x = list(
                    sampler.steps(
                        f"ddim:{steps}@trailing", seeds, c, given={"image": picture}, strength=strength, **more
                    )
                )
                kept = max(1, round(strength * steps))
                assert len(x) == kept, f"{len(x)} of {kept} steps"
                a, s = level(round(T - (steps - kept) * T / steps) - 1)
                check_close(x[0].u, a * picture + s * sampler.draws(seeds)(0), 1e-5)
            elif form == "all steps":
                strength = float(own.uniform(0.1, 1))
                x = list(
                    sampler.steps(
                        f"ddim:{steps}@trailing",
                        seeds,
                        c,
                        given={"image": picture},
                        strength=AllSteps(strength),
                        **more,
                    )
                )
                assert len(x) == steps
                a, s = level(round(T * strength) - 1)
                check_close(x[0].u, a * picture + s * sampler.draws(seeds)(0), 0.03)
            elif form == "start noise":
                noise = float(own.uniform(0.2, 0.95))
                x = list(
                    sampler.steps(
                        f"ddim:{steps}@trailing",
                        seeds,
                        c,
                        given={"image": picture},
                        strength=AllSteps(noise=noise),
                        **more,
                    )
                )
                check_close(x[0].u, math.sqrt(1 - noise**2) * picture + noise * sampler.draws(seeds)(0), 0.05)
            elif form == "negative":
                x = sampler.sample(plan, seeds, c, guidance=3.0, branches=branches)
                y = sampler.sample(plan, seeds, branches["uncond"], guidance=-2.0, branches={"uncond": c})
                check_close(x, y, 5e-4)
            elif form == "plans":
                others = [f"{solver}:{int(n)}@trailing" for n in own.integers(2, 7, count)]
                x = sampler.sample_each(others, seeds, c, **more)
                check_close(
                    x,
                    np.concatenate([sampler.sample(others[i], [seeds[i]], at([i]), **of([i])) for i in range(count)]),
                    2e-5,
                )
            elif form == "noise":
                n = int(own.integers(0, 5))
                right = np.stack([box_muller(philox_normal(s, n, 128)).reshape(2, 8, 8) for s in seeds])
                check_close(sampler.draws(seeds)(n), right, 1e-5)
            elif form == "given":
                compiled = use_given_noise(sampler.compile(plan, **more))
                x = sampler.sample(
                    compiled, seeds, c, branches=more["branches"], given={"noise": sampler.draws(seeds)(0)}
                )
                check_close(x, base, 1e-6)
            elif form == "seeds":
                other = sampler.sample(plan, [s + 1 for s in seeds], c, **more)
                assert np.abs(other - base).max() > 1e-3, "another seed has the same sample"
            elif form == "repeat":
                check_close(sampler.sample(plan, seeds, c, **more), base, 0.0)
            elif form == "clip":
                x = sampler.sample(f"ddim:{steps}@trailing", seeds, c, shaping=Clip(-0.3, 0.4), **more)
                assert x.min() >= -0.3 - 1e-5 and x.max() <= 0.4 + 1e-5, f"{x.min()} {x.max()}"

        yield Attempt(
            f"{form}: {solver}:{steps} guidance {guidance} of {count}, seed {seed}",
            run,
            may_refuse=form in ("hold", "clean hold", "plans", "tail"),
        )


def box_muller(words: np.ndarray) -> np.ndarray:
    """Pairs of normal numbers from pairs of words, as the page of the format states."""
    a, b = words[0::2], words[1::2]
    radius = np.sqrt(-2 * np.log((a + 1) / 2**32))
    angle = 2 * np.pi * b / 2**32
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
