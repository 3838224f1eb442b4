"""Success of a manipulation policy, in float and int8, in few steps, with delays and knocks.

    python -m benchmarks.policy.success_rates WORK --weights training/policy.safetensors [--episodes 100]

WORK gets the bundle, calibrated on what the deployed plan itself sees, and the verdicts of each block of episodes. The
same command continues after the last block, and more episodes are added to the existing ones. `--only` runs a few
contenders further than the others. The result is WORK/table.md: all whole blocks that there are, written again after
each. `--page` puts it into lab/measured/policy.md. The verdicts that the repository has count from the start, and
`--keep` adds those of WORK to them.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table, with_part
from benchmarks.options import add_page, parser_of, refusing
from benchmarks.policy.blocks import Entry, in_whole_blocks, join_verdicts, run_blocks
from benchmarks.policy.closed_loop import DEVIATION, calibrate_on, observations_of, write_observations
from benchmarks.policy.experts import METAWORLD
from benchmarks.policy.simulator import KNOCKED, RATE, TASKS
from benchmarks.policy.table import HEAD, PAGE, row
from benchmarks.policy.verdict_store import keep, read
from benchmarks.policy.verdicts import Contender, Verdicts
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from zoo.weight_files import check_weights

SOURCE = Path(__file__).with_name("network.py")
WATCHED = 4  # episodes of each task that are watched for the calibration
CALIBRATING = (
    Contender("watched", "", "dpmpp_2m:2"),
    Contender("watched", "", "dpmpp_2m:2", "trained", 4),
)
FITTED = (1, 2, 3)  # steps of fitted plans
DELAYS = (1, 2, 4, 8)  # ticks of 12.5 ms
FADE, LONG_FADE = 4, 6  # ticks
OFTEN = 4  # ticks that are executed where sequences are sampled twice as often


def contenders(weights: str) -> list[Contender]:
    """All rows of the table, for the hash of a checkpoint; the first policy is the reference."""

    def of(precision: str, steps: int, **options: Any) -> Contender:
        delay, fade, continuity, execute = (options.get(each) for each in ("delay", "fade", "continuity", "execute"))
        name = f"{precision}, {steps} steps"
        name += "" if execute is None else f", each {execute} ticks"
        name += "" if continuity is None else f", {continuity}"
        name += "" if fade is None else f", fade {fade}"
        name += "" if delay is None else f", {1e3 * delay / RATE:g} ms late"
        name += ", knocked" * options.get("knocked", False)
        plan = f"ddim:{steps}" if steps >= 10 else f"dpmpp_2m:{steps}"
        return Contender(name, weights, plan, precision=precision, **options)

    def fit_of(steps: int) -> Contender:
        name = f"int8, {steps} steps, fitted"
        return Contender(name, weights, f"fitted:{steps}", precision="int8", clipped=False)  # a fit has no clip

    main = [
        Contender("experts"),
        of("float32", 100),
        of("int8", 2),
        of("int8", 2, fade=FADE),
        of("int8", 2, execute=OFTEN, fade=FADE),
    ]
    main += [of("float32", steps) for steps in (1, 2, 4, 10)]
    main += [of("int8", steps) for steps in (1, 3, 4)]
    main += [fit_of(steps) for steps in FITTED]
    main += [of("int8", 2, continuity="trained", delay=delay) for delay in DELAYS]
    main += [of("int8", 2, continuity=each, delay=delay) for each in ("none", "hard") for delay in DELAYS[1:3]]
    main.append(of("int8", 2, continuity="trained", delay=DELAYS[2], fade=FADE))
    main.append(of("int8", 2, execute=OFTEN))
    main.append(of("int8", 2, execute=OFTEN, fade=FADE, continuity="trained", delay=DELAYS[2]))
    main.append(of("int8", 2, execute=OFTEN, fade=LONG_FADE))
    main.append(Contender("rescuers", rescuers=True))
    main += [Contender("experts, knocked", knocked=True), Contender("rescuers, knocked", knocked=True, rescuers=True)]
    main += [of("int8", 2, knocked=True), of("int8", 2, fade=FADE, knocked=True)]
    main += [of("int8", 2, execute=OFTEN, knocked=True), of("int8", 2, execute=OFTEN, fade=FADE, knocked=True)]
    main.append(of("int8", 2, execute=OFTEN, fade=LONG_FADE, knocked=True))
    main += [of("float32", 4, knocked=True), of("int8", 2, execute=24, knocked=True)]
    return main


def prepare(work: Path, weights: Path) -> Path:
    """The bundle of the weights, with an int8 body that was calibrated closed loop."""
    digest = hash_of(weights)
    bundle, done = work / f"policy-{digest}", work / f"policy-{digest}{DEVIATION}"
    if done.exists() and observations_of(bundle).exists():
        return bundle
    shutil.rmtree(bundle, ignore_errors=True)
    os.environ["POLICY_WEIGHTS"] = str(weights)
    export(ExportOptions(f"{SOURCE}:make", bundle))
    calibrate_on(write_observations(METAWORLD, bundle, CALIBRATING, WATCHED), bundle)
    return bundle


def fit_plans(bundle: Path, rivals: Sequence[Contender]) -> None:
    """Add the contenders' fitted plans to the bundle, unless it has them."""
    with load(bundle) as sampler:
        known = {entry.evaluations for entry in sampler.bundle.manifest.fitted}
    for steps in FITTED:
        if steps not in known and any(rival.plan == f"fitted:{steps}" for rival in rivals):
            fit(FitOptions(bundle, steps=steps, conditions=observations_of(bundle), features="none", threads=1))


def hash_of(weights: Path) -> str:
    """A hash of a checkpoint. Raises UserError if there is none."""
    return hashlib.sha256(check_weights(weights).read_bytes()).hexdigest()[:12]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each task, from --first on")
    parser.add_argument("--first", type=int, default=0, help="first seed; several runs may share WORK")
    parser.add_argument("--keep", action="store_true", help="add the verdicts to those in the repository")
    add_page(parser, PAGE)
    parser.add_argument("--only", action="append", help="run only contenders with this name; may be repeated")
    given = parser.parse_args()
    if given.episodes < 1 or given.first < 0:
        parser.error(f"--episodes {given.episodes} --first {given.first}: run one episode or more, from seed 0 on")
    with refusing(parser):
        rivals = contenders(hash_of(given.weights))
    names = [contender.name for contender in rivals]
    if unknown := [each for each in given.only or () if each not in names]:
        parser.error(f"there is no contender {unknown[0]!r}: there are {'; '.join(names)}")
    chosen = [contender for contender in rivals if not given.only or contender.name in given.only]
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = prepare(given.work, given.weights)
    fit_plans(bundle, chosen)
    backend = OnnxRuntime(threads=1, spinning=False)  # two that spin on one core take twice its time
    samplers: dict[str | None, Sampler] = {
        "float32": load(bundle, backend=backend),
        "int8": load(bundle, precision="int8", backend=backend),
    }
    own = given.work / f"verdicts-{given.first}.jsonl"  # several runs may share WORK
    verdicts = join_verdicts(read(), *map(read, sorted(given.work.glob("verdicts-*.jsonl"))))
    entries = [Entry(contender, samplers.get(contender.precision), tasks_of(contender)) for contender in chosen]
    for _ in run_blocks(METAWORLD, entries, verdicts, own, range(given.first, given.first + given.episodes)):
        lines = write(given.work, bundle, rivals, verdicts)
    if given.page:
        PAGE.write_text(page(PAGE.read_text(), lines, far_apart(bundle)))
    if given.keep:
        keep((rival, verdicts[rival.digest]) for rival in rivals)


def tasks_of(contender: Contender) -> Sequence[str]:
    return KNOCKED if contender.knocked else TASKS


def write(
    work: Path,
    bundle: Path,
    rivals: Sequence[Contender],
    known: Mapping[str, Verdicts],
) -> list[tuple[str, ...]]:
    """The table of all whole blocks so far, and its lines. The first policy is the reference."""
    reference, lines = None, []
    for contender in rivals:
        verdicts = in_whole_blocks(known.get(contender.digest, {}), tasks_of(contender))
        policy = contender.precision is not None and not contender.knocked
        if verdicts:
            lines.append(row(contender, verdicts, reference if policy else None))
        if policy and reference is None:
            reference = verdicts
    (work / "table.md").write_text(f"{table(HEAD, lines)}\n\n{far_apart(bundle)}\n")
    return lines


def far_apart(bundle: Path) -> str:
    """The distance of int8's actions from float32's, in words."""
    rms, p99 = bundle.with_suffix(DEVIATION).read_text().split()
    return (
        f"Asked alike, int8 and float32 give actions that differ by {rms} in the root mean square. In one of\n"
        f"100 sequences an action differs by more than {p99}."
    )


def page(text: str, lines: Sequence[tuple[str, ...]], note: str) -> str:
    """The page with the table between its marks."""
    return with_part(text, "benchmarks/policy/success_rates.py", f"{table(HEAD, lines)}\n\n{note}")


if __name__ == "__main__":
    main()
