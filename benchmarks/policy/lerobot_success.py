"""Success of a policy that LeRobot trained on Fetch, in float32 and int8 and in few steps, on the same episodes.

    python -m benchmarks.policy.lerobot_success WORK --checkpoint run/checkpoints/last --task fetch-push

WORK gets the bundle, the verdicts of each block of episodes, the time of a sequence, and table-TASK.md. The same
command continues after the last block. `--page` puts the table into lab/measured/lerobot.md, and `--keep` adds the
verdicts to those of the repository.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.markdown import put_part, table
from benchmarks.options import add_page, parser_of, positive
from benchmarks.policy.blocks import Entry, in_whole_blocks, join_verdicts, run_blocks
from benchmarks.policy.closed_loop import DEVIATION, calibrate_on, observations_of, write_observations
from benchmarks.policy.confidence_intervals import TWO_SIDED, wilson
from benchmarks.policy.fetch import FETCH, REACH, TASKS
from benchmarks.policy.lerobot_calls import LEROBOT, Calls, measure_calls, measure_lerobot_calls
from benchmarks.policy.lerobot_folder import policy_folder, predicts_noise
from benchmarks.policy.success_rates import fit_plans, hash_of
from benchmarks.policy.table import pair_episodes
from benchmarks.policy.verdict_store import keep, read
from benchmarks.policy.verdicts import Contender, Verdicts
from benchmarks.policy.worlds import World
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

PAGE = Path(__file__).parents[2] / "lab/measured/lerobot.md"
HEAD = (
    "who",
    "episodes",
    "success %",
    "95 %",
    "gained, lost",
    "less reference, 95 % (p)",
    "ticks (less reference's)",
    "worst jerk",
    "ms p50",
    "ms p99",
    "MB",
    "peak MB",
)
SCHEDULER = 10  # steps of LeRobot's own scheduler
FEW, FITTED = (2, 1), (2, 1)
FEW_OF_NOISE = (4, *FEW)  # of a policy that predicts noise, for which a step is worth less
BLIND = "int8, 2 steps, grey pictures"
WATCHED, EPISODES_WATCHED = 2, 16  # contenders that the calibration sees, and episodes of each


def contenders(weights: str, task: str, predicts_noise: bool) -> list[Contender]:
    """All rows of the table, for the hash of a checkpoint; the first policy is the reference. One that predicts noise
    has no fitted plans, and one that sees has a row without its sight.
    """
    few, fitted = (FEW_OF_NOISE, ()) if predicts_noise else (FEW, FITTED)
    made = [Contender("expert")]
    for precision in ("float32", "int8"):
        name = f"{precision}, {SCHEDULER} steps"  # the scheduler's plan has its clip
        made.append(Contender(name, weights, f"scheduler:{SCHEDULER}", precision=precision, clipped=False))
        for steps in few:
            made.append(Contender(f"{precision}, {steps} steps", weights, f"dpmpp_2m:{steps}", precision=precision))
        for steps in fitted:
            name = f"{precision}, {steps} steps, fitted"
            made.append(Contender(name, weights, f"fitted:{steps}", precision=precision, clipped=False))
    if task == REACH:
        made.append(Contender(BLIND, weights, "dpmpp_2m:2", precision="int8", blind=True))
    return made


def distilled_contenders(weights: str) -> list[Contender]:
    """The rows of a policy that was distilled into one step, for the hash of its weights."""
    return [
        Contender(f"{precision}, 1 step, distilled", weights, "dpmpp_2m:1", precision=precision)
        for precision in ("float32", "int8")
    ]


def digest_of(checkpoint: Path) -> str:
    """A hash of the weights of a checkpoint."""
    return hash_of(policy_folder(checkpoint) / "model.safetensors")


def world_of(task: str) -> World:
    """Fetch with one task, since a policy has learnt one."""
    return dataclasses.replace(FETCH, tasks=(task,))


def prepare(work: Path, checkpoint: Path, task: str, rivals: Sequence[Contender]) -> Path:
    """The bundle of a checkpoint, with an int8 body that was calibrated in closed loop, and the fitted plans."""
    folder = policy_folder(checkpoint)
    bundle = work / f"policy-{digest_of(checkpoint)}"
    if not bundle.with_suffix(DEVIATION).exists():
        shutil.rmtree(bundle, ignore_errors=True)
        export(ExportOptions(str(folder), bundle))
        watched = [rival for rival in rivals if rival.precision == "float32" and rival.clipped][:WATCHED]
        jobs = write_observations(world_of(task), bundle, watched, EPISODES_WATCHED)
        fit_plans(bundle, rivals)  # before the calibration, whose clip a fitted plan does not have
        calibrate_on(jobs, bundle, 1.0 if predicts_noise(folder) else None)  # else its ranges would be useless
    return bundle


def with_plans(rivals: Sequence[Contender], bundle: Path) -> list[Contender]:
    """Return the contenders whose plan a bundle has: a fit that gains nothing is not stored."""
    with load(bundle) as sampler:
        stored = {f"fitted:{entry.evaluations}" for entry in sampler.bundle.manifest.fitted}
    fitted = {f"fitted:{steps}" for steps in FITTED}
    return [rival for rival in rivals if rival.plan not in fitted - stored]


def row(contender: Contender, verdicts: Verdicts, reference: Verdicts | None, calls: Calls | None) -> tuple[str, ...]:
    """Return the cells of a contender. `reference` has the verdicts that it is compared with, or None."""
    won = sum(verdict.solved is not None for verdict in verdicts.values())
    low, high = wilson(won, len(verdicts))
    jerks = [verdict.worst_jerk for verdict in verdicts.values() if verdict.worst_jerk is not None]
    return (
        contender.name,
        str(len(verdicts)),
        f"{100 * won / len(verdicts):.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        *(("", "") if reference is None else _compare(verdicts, reference)),
        _ticks(verdicts, reference),
        f"{np.median(jerks):.2f}, {max(jerks):.2f}",
        *_costs(calls),
    )


def _compare(verdicts: Verdicts, reference: Verdicts) -> tuple[str, str]:
    pair = pair_episodes(verdicts, reference)
    low, high = pair.interval
    difference = f"{100 * pair.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}; {pair.p_value:.2g})"
    return f"{pair.gained}, {pair.lost}", difference


def _ticks(verdicts: Verdicts, reference: Verdicts | None) -> str:
    """The median of the ticks to success, and the mean difference with its interval of 95 % where both solve."""
    ticks = {episode: verdict.solved for episode, verdict in verdicts.items() if verdict.solved is not None}
    median = f"{np.median(list(ticks.values())):.0f}" if ticks else ""
    others = {episode: each.solved for episode, each in (reference or {}).items() if each.solved is not None}
    differences = [ticks[episode] - others[episode] for episode in ticks.keys() & others.keys()]
    if len(differences) < 2:
        return median
    half = TWO_SIDED * float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    return f"{median} ({np.mean(differences):+.1f} ± {half:.1f})"


def _costs(calls: Calls | None) -> tuple[str, ...]:
    if calls is None:
        return "", "", "", ""
    return f"{calls.p50:.2f}", f"{calls.p99:.2f}", f"{calls.megabytes:.0f}", f"{calls.peak:.0f}"


def write(
    work: Path, task: str, rivals: Sequence[Contender], known: Mapping[str, Verdicts], calls: Mapping[str, Calls]
) -> str:
    """Write the table of all whole blocks so far, and return it. The first policy is the reference."""
    reference, lines = None, []
    for contender in rivals:
        verdicts = in_whole_blocks(known.get(contender.digest, {}), (task,))
        if verdicts:
            lines.append(row(contender, verdicts, reference, calls.get(contender.name)))
            reference = verdicts if reference is None and contender.precision else reference
    if LEROBOT in calls:
        lines.append((LEROBOT, *[""] * 7, *_costs(calls[LEROBOT])))
    made = table(HEAD, lines)
    (work / f"table-{task}.md").write_text(made + "\n")
    return made


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint of LeRobot's training")
    parser.add_argument("--distilled", type=Path, help="a policy of lerobot_distill.py, for its rows")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--episodes", type=positive, default=500)
    parser.add_argument("--first", type=int, default=0, help="first seed; several runs may share WORK")
    parser.add_argument("--calls", type=int, default=0, help="measure the time of so many sequences of each contender")
    parser.add_argument("--keep", action="store_true", help="add the verdicts to those in the repository")
    add_page(parser, PAGE)
    parser.add_argument("--only", action="append", help="run only contenders with this name; may be repeated")
    given = parser.parse_args()
    folder = policy_folder(given.checkpoint)
    rivals = contenders(digest_of(given.checkpoint), given.task, predicts_noise(folder))
    students = distilled_contenders(digest_of(given.distilled)) if given.distilled else []
    names = [contender.name for contender in (*rivals, *students)]
    if unknown := [each for each in given.only or () if each not in names]:
        parser.error(f"there is no contender {unknown[0]!r}: there are {'; '.join(names)}")
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = prepare(given.work, given.checkpoint, given.task, rivals)
    rivals = with_plans(rivals, bundle)
    all_ = [*rivals, *students]
    bundles = {digest_of(given.checkpoint): bundle}
    if students:
        bundles[digest_of(given.distilled)] = prepare(given.work, given.distilled, given.task, students)
    backend = OnnxRuntime(threads=1, spinning=False)
    samplers = {
        (weights, precision): load(folder, precision=precision, backend=backend)
        for weights, folder in bundles.items()
        for precision in ("float32", "int8")
    }
    entries = [
        Entry(each, samplers.get((each.weights or "", each.precision or "")), (given.task,))
        for each in all_
        if not given.only or each.name in given.only
    ]
    own, costs = given.work / f"verdicts-{given.first}.jsonl", bundle.with_suffix(".calls.json")
    verdicts = join_verdicts(read(), *map(read, sorted(given.work.glob("verdicts-*.jsonl"))))
    if given.calls:
        seen = observations_of(bundle)
        measured = measure_calls(bundle, seen, rivals, given.calls)
        if students:
            measured |= measure_calls(bundles[digest_of(given.distilled)], seen, students, given.calls)
        measured[LEROBOT] = measure_lerobot_calls(folder, seen, given.calls)
        costs.write_text(json.dumps({name: dataclasses.asdict(each) for name, each in measured.items()}))
    calls = {name: Calls(**each) for name, each in json.loads(costs.read_text()).items()} if costs.exists() else {}
    made = write(given.work, given.task, all_, verdicts, calls)
    for _ in run_blocks(world_of(given.task), entries, verdicts, own, range(given.first, given.first + given.episodes)):
        made = write(given.work, given.task, all_, verdicts, calls)
    print(made)
    if given.page:
        put_part(PAGE, f"benchmarks/policy/lerobot_success.py --task {given.task}", made)
    if given.keep:
        keep((each, verdicts[each.digest]) for each in all_)


if __name__ == "__main__":
    main()
