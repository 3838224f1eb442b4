"""Whole runs as one ONNX file, by onnxruntime alone, against the sampler."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.shaping import clip_to
from fewstep.runtime import load
from lab.tries.attempt import Attempt, check_close
from lab.tries.modules import make_bundle

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
    "ipndm",
    "rfpp",
)


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    folder = Path(tempfile.mkdtemp())
    bundle = make_bundle(folder, OPS, 8, 5)
    sampler = load(bundle)
    for index in range(number):
        solver, steps = str(random.choice(SOLVERS)), int(random.integers(1, 7))
        guidance = None  # words have no null value
        clip = float(random.choice([0.0, 0.5, 1.0])) or None
        unroll, fixed = bool(random.random() < 0.4), int(random.integers(0, 4)) or None
        count, draw, path = fixed or int(random.integers(1, 5)), int(random.integers(2**31)), folder / f"{index}.onnx"

        def run(
            solver=solver,
            steps=steps,
            guidance=guidance,
            clip=clip,
            unroll=unroll,
            fixed=fixed,
            count=count,
            draw=draw,
            path=path,
        ) -> None:  # type: ignore[no-untyped-def]
            own, plan = np.random.default_rng(draw), f"{solver}:{steps}@trailing"
            bake(
                BakeOptions(
                    bundle, parse_plan_text(plan), path, clip=clip, unroll=unroll, batch=fixed, guidance=guidance
                )
            )
            seeds = [int(v) for v in own.integers(0, 2**32, count)]
            c = {"label": own.integers(0, 5, count), "words": own.standard_normal((count, 3)).astype(np.float32)}
            right = sampler.sample(plan, seeds, c, shaping=clip_to(clip))
            session, draws = onnxruntime.InferenceSession(path), sampler.draws(seeds)
            fed = dict(c)
            for entry in session.get_inputs():
                if entry.name == "noise":
                    fed["noise"] = draws(0)
                elif entry.name == "draws":
                    fed["draws"] = np.stack(
                        [draws(n + 1) for n in range(entry.shape[0] if isinstance(entry.shape[0], int) else steps)]
                    )
            (value,) = session.run(None, {k: v for k, v in fed.items() if k in {e.name for e in session.get_inputs()}})
            check_close(value, right, 1e-5)

        yield Attempt(f"{solver}:{steps} clip {clip} unroll {unroll} batch {fixed}", run, may_refuse=True)
