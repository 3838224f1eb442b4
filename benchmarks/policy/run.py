"""Success of a manipulation policy, in float and int8, in few steps, with delays and knocks.

    python benchmarks/policy/run.py WORK --weights training/policy.safetensors [--quick] [--episodes 100]

WORK gets the bundle, calibrated on what the deployed plan itself sees, and the verdict of every episode. The same
command goes on where the last one stopped, and more episodes add to those that are there. `--quick` takes 4 episodes of
each task and the main contenders. The result is WORK/table.md, and WORK/rows.json for policy_page.py.
"""

import argparse
import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
from closed_loop import deviation, rows, watch
from rollouts import episodes_of, run
from simulator import KNOCKED, TASKS
from table import markdown, row
from verdicts import Contender, Ledger

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.runtime import Sampler, load

SOURCE = Path(__file__).with_name("network.py")
CALIBRATED = "dpmpp_2m:4"  # its last two steps are those of two warm ones
WATCHED, ROWS = 4, 256  # episodes of each task that are watched, and observations that are calibrated on
DELAYS = (1, 2, 4, 8)  # ticks of 12.5 ms
ROWS_FILE, DEVIATION = "rows.json", ".deviation"


class Rows(msgspec.Struct, frozen=True):
    """The table's lines, as text, and the name of the bundle in WORK."""

    bundle: str
    lines: list[tuple[str, ...]]


def contenders(weights: dict[str, str], quick: bool) -> list[tuple[Contender, str | None]]:
    """All rows of the table with the precision that each runs in, None for the experts; the first policy is the
    reference."""
    floating, integer = weights["float32"], weights["int8"]
    two = Contender("int8, 2 steps, warm", integer, "dpmpp_2m:2", warm=0.5)

    def of(name: str, precision: str, plan: str, warm: float | None = None) -> tuple[Contender, str]:
        return Contender(name, weights[precision], plan, warm), precision

    main: list[tuple[Contender, str | None]] = [
        (Contender("experts"), None),
        of("float32, 100 steps", "float32", "ddim:100") if not quick else of("float32, 10 steps", "float32", "ddim:10"),
        (two, "int8"),
        of("int8, 2 steps", "int8", "dpmpp_2m:2"),
        of("float32, 2 steps, warm", "float32", "dpmpp_2m:2", 0.5),
        (Contender("int8, 2 steps, soft", integer, "dpmpp_2m:2", continuity="soft"), "int8"),
    ]
    if quick:
        return main
    for steps in (1, 2, 4):
        main.append(of(f"float32, {steps} steps", "float32", f"dpmpp_2m:{steps}"))
    for steps in (1, 4):
        main.append(of(f"int8, {steps} steps", "int8", f"dpmpp_2m:{steps}"))
        main.append(of(f"int8, {steps} steps, warm", "int8", f"dpmpp_2m:{steps}", 0.5))
    for continuity in ("none", "hard", "soft", "trained"):
        for delay in DELAYS if continuity in ("soft", "trained") else (4,):
            name = f"int8, 2 steps, warm, {continuity}, {12.5 * delay:g} ms late"
            main.append((Contender(name, integer, "dpmpp_2m:2", 0.5, continuity, delay), "int8"))
    main.append((Contender("experts, knocked", knocked=True), None))
    main.append((Contender("int8, 2 steps, warm, knocked", integer, "dpmpp_2m:2", 0.5, knocked=True), "int8"))
    main.append((Contender("float32, 4 steps, knocked", floating, "dpmpp_2m:4", knocked=True), "float32"))
    seldom = Contender("int8, 2 steps, each 24 ticks, knocked", integer, "dpmpp_2m:2", execute=24, knocked=True)
    main.append((seldom, "int8"))
    return main


def prepare(work: Path, weights: Path) -> Path:
    """The bundle of the weights, with an int8 body that was calibrated closed loop."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    bundle, done = work / f"policy-{digest}", work / f"policy-{digest}{DEVIATION}"
    if done.exists():
        return bundle
    shutil.rmtree(bundle, ignore_errors=True)
    os.environ["POLICY_WEIGHTS"] = str(weights)
    export(ExportOptions(f"{SOURCE}:make", bundle))
    with load(bundle) as sampler:
        jobs = watch(Contender("watched", "", "dpmpp_2m:2", 0.5), sampler, WATCHED)
        jobs += watch(Contender("watched", "", "dpmpp_2m:2", 0.5, "trained", 4), sampler, WATCHED)
        np.savez(work / "observations.npz", **rows(jobs, sampler, ROWS))  # type: ignore[arg-type]
    calibrate(CalibrateOptions(bundle, CALIBRATED, conditions=work / "observations.npz"))
    with load(bundle) as floating, load(bundle, precision="int8") as integer:
        far = deviation(jobs, floating, integer)
    done.write_text(f"{far.rms:.4f} {far.p99:.4f}\n")
    return bundle


def hash_of(sampler: Sampler) -> str:
    """What decides the samples of a body, beside the machine: its files, whose names hold the hash of each."""
    manifest, graph = sampler.bundle.manifest, sampler.body.graph
    ahead = [each.file for each in (manifest.conditioner, manifest.prologue) if each is not None]
    files = [graph.file, *graph.data, *ahead]
    return hashlib.sha256(" ".join(sorted(files)).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="contenders whose name holds this, beside the reference")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = prepare(given.work, given.weights)
    samplers = {"float32": load(bundle), "int8": load(bundle, precision="int8")}
    hashes = {precision: hash_of(sampler) for precision, sampler in samplers.items()}
    lines, reference = [], None
    for contender, precision in contenders(hashes, given.quick):
        is_reference = precision is not None and reference is None
        if given.only and given.only not in contender.name and not is_reference:
            continue
        episodes = episodes_of(4 if given.quick else given.episodes, KNOCKED if contender.knocked else TASKS)
        ledger = Ledger(given.work / "verdicts", contender)
        run(contender, None if precision is None else samplers[precision], episodes, ledger, print)
        verdicts = {each: ledger.verdicts[each] for each in episodes}
        compare = None if precision is None or is_reference or contender.knocked else reference
        lines.append(row(contender, verdicts, compare))
        print(" | ".join(lines[-1]), flush=True)
        if is_reference:
            reference = verdicts
    (given.work / ROWS_FILE).write_bytes(msgspec.json.encode(Rows(bundle.name, lines)))
    rms, p99 = bundle.with_suffix(DEVIATION).read_text().split()
    note = f"Actions of int8 are {rms} from those of float32 (root mean square), {p99} in one of 100 sequences.\n"
    (given.work / "table.md").write_text(f"{markdown(lines)}\n\n{note}")


if __name__ == "__main__":
    main()
