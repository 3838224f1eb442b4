"""The student beside its teacher and the network that it began as: rows, time, FD and classes, in float32 and int8.

    python -m benchmarks.reflow.measure --work FOLDER [--seeds 128] [--rounds 5] [--only student]

FD is to the 10 000 test pictures, jackknifed over eighths of the samples, of two sets of seeds. PSNR is of int8 to
float32. Processor time of one sample on one thread is of runs in separate processes that take turns. `--only` names
networks; samples stay in the work folder.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.claims.plan_ways import likeness
from benchmarks.claims.settings import BATCH, FASHION, FIRST_SEED, Setting
from benchmarks.markdown import table
from benchmarks.options import add_only, parser_of
from benchmarks.races.turns import Call, in_turns
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.distances.features import open_extractor
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.models import ready
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

HERE = Path(__file__).parent
SOURCES = {"student": HERE / "student.py", "dit_flow": HERE.parent / "zoo" / "dit_flow.py"}
SETS = (FIRST_SEED, 2 * FIRST_SEED)  # the first seed of each
GUIDANCE = 2.0
CALIBRATED = "ddim:2@trailing"  # its first step is all of `ddim:1`


@dataclass(frozen=True)
class Contender:
    """A network along a plan; a row of it for each evaluation, or two with guidance."""

    network: str
    plan: str
    guidance: float | None = None
    precision: str = "float32"

    @property
    def rows(self) -> int:
        steps = int(self.plan.partition(":")[2].partition("@")[0])
        return steps * (1 if self.guidance is None else 2)

    @property
    def name(self) -> str:
        return f"{self.network} {self.plan} {self.guidance} {self.precision}"


CONTENDERS = (
    *(Contender("student", plan, None, each) for plan in ("ddim:1", CALIBRATED) for each in ("float32", "int8")),
    *(Contender("dit_flow", plan) for plan in ("ddim:1", "ddim:2@trailing", "ddim:4", "dpmpp_2m:8")),
    *(Contender("dit_flow", plan, GUIDANCE) for plan in ("ddim:1", "ddim:2@trailing", "dpmpp_2m:4", "dpmpp_2m:8")),
    *(
        Contender("fashion_mnist", plan, GUIDANCE, "int8")
        for plan in (
            "ddim:1", "unipc_2:2@arctan(power=1.5)", "unipc_2:3@arctan(power=1.5)",
            "fitted:4", "fitted:5", "fitted:8",
        )
    ),
)  # fmt: skip


def bundle_of(network: str, work: Path) -> Path:
    """The network's bundle in the work folder, the student's with int8; of the teacher the one that ships, which has no
    float32."""
    if network == "fashion_mnist":
        return ready.fashion_mnist()
    bundle = work / network
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(f"{SOURCES[network]}:make", bundle))
        if network == "student":
            calibrate(CalibrateOptions(bundle, CALIBRATED, target=("cpu-x86",)))
    return bundle


def opened(network: str, precision: str, work: Path) -> Sampler:
    return load(bundle_of(network, work), precision, backend=OnnxRuntime(threads=1))


def samples(contender: Contender, seeds: range, work: Path) -> Floats:
    """Samples of the contender, from the work folder where they are there."""
    kept = work / f"{contender.name.replace(':', '-').replace(' ', '-')}-{seeds.start}-{len(seeds)}.npy"
    if not kept.exists():
        sampler, parts = opened(contender.network, contender.precision, work), []
        for at in range(0, len(seeds), BATCH):
            part = seeds[at : at + BATCH]
            parts.append(sampler.sample(contender.plan, part, labels(part), contender.guidance))
        np.save(kept, np.concatenate(parts).astype(np.float32))
    return np.asarray(np.load(kept))


def labels(seeds: range) -> dict[str, list[int]]:
    return {"class": [seed % 10 for seed in seeds]}


def one_run(contender: Contender, work: Path) -> Call:
    """A run of one sample."""
    sampler = opened(contender.network, contender.precision, work)
    compiled = sampler.compile(contender.plan, contender.guidance)
    return lambda: sampler.sample(compiled, [0], labels(range(1)), contender.guidance)


def figures(contender: Contender, setting: Setting, work: Path) -> tuple[str, ...]:
    """FD of each set with its deviation, the share of samples in the class that was asked for, and PSNR to float32."""
    parts, right, near = [], [], []
    for first in SETS:
        own = replace(setting, seeds=range(first, first + len(setting.seeds)))
        x = samples(contender, own.seeds, work)
        distances = -likeness(own, x)
        parts.append(f"{distances.mean():.1f} ± {distances.std(ddof=1) / len(distances) ** 0.5:.1f}")
        right.append((own.logits(x).argmax(1) == own.labels).mean())
        if contender.precision == "int8" and contender.network != "fashion_mnist":
            near.append(psnr(x, samples(replace(contender, precision="float32"), own.seeds, work)))
    decibels = f"{np.concatenate(near).mean():.1f} / {np.percentile(np.concatenate(near), 5):.1f}" if near else ""
    return (*parts, f"{100 * np.mean(right):.1f} %", decibels)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundles and samples")
    parser.add_argument("--seeds", type=int, default=128, help="of each set")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each process that is timed")
    add_only(parser, "networks")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    contenders = [each for each in CONTENDERS if not given.only or each.network in given.only]
    for network in dict.fromkeys(each.network for each in contenders):
        bundle_of(network, given.work)
    judge, first = open_extractor(FASHION, (1, 28, 28), 1), contenders[0]
    setting = Setting(opened(first.network, first.precision, given.work), judge, "class", range(given.seeds))
    times = in_turns({each.name: partial(one_run, each, given.work) for each in contenders}, given.rounds, 0.5)
    unit = times[first.name]
    head = ("network", "plan", "guidance", "body", "rows", "ms", "times the first", *(f"FD from {at}" for at in SETS))
    rows = [
        (
            *(each.network, f"`{each.plan}`", "none" if each.guidance is None else f"{each.guidance:g}"),
            *(each.precision, f"{each.rows}", f"{1000 * np.median(times[each.name].processor):.1f}"),
            f"{1 / times[each.name].against(unit)[1]:.1f}",
            *figures(each, setting, given.work),
        )
        for each in contenders
    ]
    print(table((*head, "right class", "dB to float32, 5th percentile"), rows))


if __name__ == "__main__":
    from benchmarks.reflow import measure  # by this name the processes of contenders import its functions

    measure.main()
