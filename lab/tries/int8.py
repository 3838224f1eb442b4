"""Int8 bodies of small random networks: the verdict's PSNR against that of 64 other seeds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.describe.trials import describe_trials
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from lab.tries.attempt import Attempt
from lab.tries.modules import make_bundle

OPS = (
    "attention",
    "norm_layers",
    "glu",
    "bilinear",
    "transposed",
    "rotary",
    "reflect",
    "activations",
    "batch_norm",
    "deviation",
    "gru",
    "repeat",
    "in_place",
    "pad_pool",
    "temperature",
    "lerp",
    "clamps",
    "coordinates",
    "masked_attention",
    "shuffle",
)
WEIGHTED = ("attention", "rotary", "reflect", "circular", "replicate", "transposed", "masked_attention")
CHECKS = ("finite", "verdict", "good", "batch")
TARGETS = ("cpu-x86", "cpu-x86-no-vnni")
PLAN = "dpmpp_2m:4@trailing"


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    for _ in range(-(-number // (len(TARGETS) * len(CHECKS)))):
        ops, seed = (str(random.choice(WEIGHTED)), str(random.choice(OPS)), "reflect"), int(random.integers(2**31))
        folder = Path(tempfile.mkdtemp())
        made: list[tuple[Path, Calibration] | Exception] = []

        def prepare(ops=ops, seed=seed, folder=folder, made=made) -> tuple[Path, Calibration]:  # type: ignore[no-untyped-def]
            if not made:
                try:
                    bundle = make_bundle(folder, ops, 32, seed)
                    options = CalibrateOptions(bundle, parse_plan_text(PLAN), target=TARGETS, trajectories=16, clip=1.0)
                    made.append((bundle, calibrate(options)))
                except Exception as error:
                    made.append(error)
            if isinstance(made[0], Exception):
                raise made[0]
            return made[0]

        for target in TARGETS:
            for check in CHECKS:

                def run(target=target, check=check, prepare=prepare, seed=seed) -> None:  # type: ignore[no-untyped-def]
                    bundle, _ = prepare()
                    manifest = open_bundle(bundle).manifest
                    body = manifest.bodies.get(f"int8-{target}")
                    if body is None:
                        return  # not written, and the verdict says so
                    own, seeds = np.random.default_rng(seed), list(range(10**6, 10**6 + 64))
                    c = {"label": own.integers(0, 5, 64), "words": own.uniform(-2, 2, (64, 3)).astype(np.float32)}
                    with load(bundle, "float32") as f, load(bundle, body=f"int8-{target}") as q:
                        right, value = f.sample(PLAN, seeds, c), q.sample(PLAN, seeds, c)
                        if check == "batch":
                            few = q.sample(PLAN, seeds[:3], {k: v[:3] for k, v in c.items()})
                            assert np.abs(few - value[:3]).max() < 0.05, "depends on the batch"
                            return
                    psnr = float(np.mean(10 * np.log10(4 / np.maximum(1e-12, ((value - right) ** 2).mean((1, 2, 3))))))
                    trial = body.trials[-1]
                    said = " ".join(describe_trials([trial]))
                    if "Not usable" in said:
                        return  # of float32 itself, so that nothing is promised
                    if check == "finite":
                        assert np.isfinite(value).all()
                    elif check == "verdict":
                        assert abs(trial.psnr - psnr) < 3, (
                            f"the verdict has {trial.psnr:.1f} dB, 64 other seeds {psnr:.1f}"
                        )
                    else:
                        assert "Good to ship" not in said or psnr > 38, f"{said}: {psnr:.1f} dB"

                yield Attempt(f"{check} of {target} for {ops}, seed {seed}", run, may_refuse=True)
