"""Plans of 2 and 3 evaluations that were fitted to the policy, beside nominal ones and ten Euler steps.

    python benchmarks/policy/fitted.py WORK --weights policy.safetensors [--episodes 100]

WORK may be the folder of run.py, whose bundle and observations it takes, or makes. Plans are fitted to the float32 and
to the int8 body, on the observations that calibration has. The best nominal plan of a number of evaluations is the
nearest one of SOLVERS and GRIDS on these observations. The first table judges on observations of other episodes and on
other seeds: the PSNR to the teacher's actions, and the root mean square of the difference of the actions that are
executed, without the gripper, which is rounded. The second table has successes on the same episodes. Fitted plans clip
nothing, so no plan here does: the simulator clips what it is sent.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from closed_loop import FIRST_SEED, rows, watch
from network import EXECUTED
from numpy.typing import NDArray
from run import body_of, hash_of, prepare
from table import HEAD, markdown, row
from verdicts import Contender, Ledger

from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from rollouts import episodes_of, run

TEACHER, DEPLOYED = "dpmpp_2m:80@arctan", "euler:10"
EVALUATIONS = (2, 3)
SOLVERS = ("euler", "heun", "dpm_singlestep_2", "dpmpp_2m", "unipc_2", "lms_2")
GRIDS = ("", "@trailing", "@arctan", "@karras")
JUDGED = 200_000  # from the first seed of the watched episodes to that of the judged ones
ROWS, NOISE = 64, 900  # observations, and the first seed of their noise
GRIPPER = 3
SEEDS = {"seeds": 96, "selection_seeds": 64}  # observations differ more than seeds of one condition
Records = dict[str, NDArray[np.float32]]


def actions(sampler: Sampler, plan: str, seen: Records) -> NDArray[np.float32]:
    """Samples [N, 32, 4] for rows of conditions, each from a seed of its own."""
    count = len(seen["observation"])
    return sampler.sample(plan, range(NOISE, NOISE + count), seen)  # type: ignore[arg-type]


def decibels(made: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[np.float64]:
    """The PSNR of each sample; actions lie from -1 to 1."""
    errors = np.square(made - exact, dtype=np.float64).mean(axis=(1, 2))
    psnr: NDArray[np.float64] = 10 * np.log10(4 / errors)
    return psnr


def judged(name: str, made: NDArray[np.float32], exact: NDArray[np.float32]) -> tuple[str, ...]:
    psnr = decibels(made, exact)
    executed = (made - exact)[:, :EXECUTED, :GRIPPER]
    spread = psnr.std(ddof=1) / len(psnr) ** 0.5
    return name, f"{psnr.mean():.2f} ± {spread:.2f}", f"{np.sqrt(np.square(executed).mean()):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = prepare(given.work, given.weights)
    backend = OnnxRuntime(threads=1, spinning=False)
    observations = given.work / "observations.npz"
    for precision in ("float32", "int8"):
        have = {(each.body.split("-")[0], each.evaluations) for each in load(bundle).bundle.manifest.fitted}
        for steps in EVALUATIONS:
            if (precision, steps) not in have:
                asked = FitOptions(bundle, steps, precision=precision, conditions=observations, threads=1, **SEEDS)
                done = fit(asked)
                gain, kept = (
                    f"{done.on_judge.mean:.2f} ± {done.on_judge.error:.2f}",
                    "" if done.is_kept else ", not kept",
                )
                print(
                    f"fitted {steps} to {precision}: {gain} dB over {done.nominal}{kept}, {done.seconds:.0f} s",
                    flush=True,
                )
    samplers = {kind: load(bundle, precision=kind, backend=backend) for kind in ("float32", "int8")}
    contenders = compared(samplers, given.work, hash_of(given.weights))
    simulate(contenders, samplers, given.work, given.episodes)


def nominal(sampler: Sampler, evaluations: int) -> list[str]:
    """Nominal plans of so many evaluations, with those that fits began at. Heun's method takes two evaluations for each
    step but the last."""
    names = [f"{solver}:{steps}{grid}" for solver in SOLVERS for steps in (1, 2, 3) for grid in GRIDS]
    began = [each.nominal for each in sampler.bundle.manifest.fitted]
    return [name for name in dict.fromkeys((*names, *began)) if len(sampler.compile(name).steps) == evaluations]


def compared(samplers: dict[str, Sampler], work: Path, weights: str) -> list[Contender]:
    """Print the first table; returns the contenders of the second."""
    floating = samplers["float32"]
    with np.load(work / "observations.npz") as file:
        seen = {name: file[name][:ROWS] for name in file.files}
    watched = Contender("watched", "", "dpmpp_2m:2")
    fresh = rows(watch(watched, floating, 2, FIRST_SEED + JUDGED), floating, ROWS, seed=2)
    exact, exact_fresh = (actions(floating, TEACHER, each) for each in (seen, fresh))
    plans = [("float32", DEPLOYED)]
    for steps in EVALUATIONS:
        names = nominal(floating, steps)
        near = {name: decibels(actions(floating, name, seen), exact).mean() for name in names}
        best = max(near, key=near.__getitem__)
        named = [name for name in names if name in (f"heun:{steps - 1}", f"dpm_singlestep_2:{steps}")]
        plans += [("float32", name) for name in dict.fromkeys((*named, best))] + [("int8", best)]
        plans += [
            (each.body.split("-")[0], f"fitted:{steps}")
            for each in floating.bundle.manifest.fitted
            if each.evaluations == steps
        ]
    lines = [judged(f"{kind}, {name}", actions(samplers[kind], name, fresh), exact_fresh) for kind, name in plans]
    table = markdown(lines, ("plan", "PSNR to the teacher, dB", "error of executed actions"))
    print(table, flush=True)
    (work / "fitted_actions.md").write_text(f"{table}\n")
    run_too = [plan for plan in plans if plan[0] == "int8" or plan[1] == DEPLOYED]
    return [Contender(f"{kind}, {name}", weights, name, precision=kind, clipped=False) for kind, name in run_too]


def simulate(contenders: Sequence[Contender], samplers: dict[str, Sampler], work: Path, episodes: int) -> None:
    """Run the episodes, in blocks that all run before any runs more, and print the second table after each."""
    ledgers = []
    for each in contenders:
        assert each.precision is not None
        ledgers.append(Ledger(work / "verdicts", each, body_of(samplers[each.precision])))
    for first in range(0, episodes, 20):
        for contender, ledger in zip(contenders, ledgers, strict=True):
            assert contender.precision is not None
            run(contender, samplers[contender.precision], episodes_of(min(20, episodes - first), first=first), ledger)
        reference = ledgers[0].verdicts
        lines = [
            row(contender, ledger.verdicts, reference if ledger is not ledgers[0] else None)
            for contender, ledger in zip(contenders, ledgers, strict=True)
        ]
        print(markdown(lines, HEAD), flush=True)
        (work / "fitted_success.md").write_text(markdown(lines, HEAD) + "\n")


if __name__ == "__main__":
    main()
