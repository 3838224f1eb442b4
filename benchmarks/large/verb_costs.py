"""The cost of each verb at a size that people have: `python -m benchmarks.large.verb_costs`.

    python -m benchmarks.large.verb_costs [--network sd15|sdxl|dit|ddpm] [--channels N] [--latent N]
        [--dtype float32|float16] [--free 64:96:8] [--plan ddim:2] [--target cpu-x86,openvino,tensorrt]
        [--trajectories 4] [--verify full|quick] [--verbs export,calibrate,...] [--work FOLDER]

A pipeline folder with random weights (networks.py; by default the U-Net of Stable Diffusion 1.5, 860 M weights) goes
through the verbs, each in a process of its own. The table has, for each, minutes, minutes of the processors, the most
memory that was resident (pages mapped from files count, though the system could drop them), and what its bundle takes
on disk after it. --work keeps what was made there, so that another call may go on with other --verbs. With --free
height and width have a range of sizes, and all verbs after export use its largest. Linux only.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.command_cost import Cost, Unfinished, measure
from benchmarks.large.networks import NETWORKS, Network
from benchmarks.large.pipeline import calls_of, write_arrays, write_pipeline
from benchmarks.options import add_work, parser_of

GB = 1e9
RECORDS = 8  # values of the conditions, of which samples take the first, calibration and evaluation one after another
PARTS = ("seen", "held")  # of calibration, and of evaluation
FREE = ("height", "width")
CLI = (sys.executable, "-m", "fewstep.cli")


@dataclass(frozen=True)
class Chain:
    """The folder of all files, and the options of the verbs."""

    folder: Path
    plan: str
    targets: tuple[str, ...]
    trajectories: int
    network: Network
    verify: str
    free: str = ""

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def _sizes(self) -> tuple[tuple[str, ...], ...]:
        """Return the options of export, run and calibrate for free sizes; none if no sizes are requested."""
        if not self.free:
            return (), (), ()
        largest = self.free.split(":")[1]
        freed = tuple(word for name in FREE for word in ("--size", f"{name}={self.free}"))
        sampled = tuple(word for name in FREE for word in ("--size", f"{name}={largest}"))
        return freed, sampled, ("--size", "x".join([largest] * len(FREE)))

    def commands(self) -> Mapping[str, tuple[str, ...]]:
        """The arguments of each step, by its name, in order."""
        bundle, plan, names = str(self.bundle), self.plan, tuple(self.network.conditions)
        freed, sized, counted_at = self._sizes()
        values = {name: f"@{self.folder / name}.npy" for name in names} | dict(self.network.labels)
        sampled = ("--plan", plan, "-n", "1", *sized, *(w for name, v in values.items() for w in ("-c", f"{name}={v}")))
        given = {part: ("--conditions", str(self.folder / f"{part}.npz")) if names else () for part in PARTS}
        measured = ("--plan", plan, *given["seen"], *counted_at)
        calibrated = ("--target", ",".join(self.targets), "--trajectories", str(self.trajectories))
        called = tuple(word for value in calls_of(self.folder, self.network) for word in ("--call", value))
        judged = ("--seeds", "2", "--teacher", plan, *given["held"])
        steps = {
            "export": ("export", str(self.folder / "pipeline"), "-o", bundle, "--verify", self.verify, *called, *freed),
            "run float32": ("run", bundle, *sampled, "-o", str(self.folder / "float32.npy")),
            "calibrate": ("calibrate", bundle, *measured, *calibrated),
            "inspect": ("inspect", bundle),
            "verify": ("verify", bundle),
            "measure": ("measure", bundle, "--columns", "psnr", *judged),
        }
        for target in self.targets:
            backend = {"openvino": "openvino"}.get(target, "onnxruntime")
            if target != "tensorrt":  # which no CPU runs
                output = str(self.folder / f"{target}.npy")
                int8 = ("--precision", "int8", "--backend", backend)
                steps[f"run {target}"] = ("run", bundle, *sampled, *int8, "-o", output)
        steps["pack"] = ("pack", bundle, "-o", str(self.folder / "device"), "--body", f"int8-{self.targets[0]}")
        return steps


def write_conditions(network: Network, folder: Path) -> None:
    """Write values of the conditions, at the scale of a text encoder's output: standard normal numbers."""
    rng = np.random.default_rng(0)
    for part in PARTS:
        records = {
            name: rng.standard_normal((RECORDS, *shape), np.float32) for name, shape in network.conditions.items()
        }
        np.savez(folder / f"{part}.npz", **records)  # type: ignore[arg-type]
        for name, values in records.items():
            np.save(folder / f"{name}.npy", values[0])


def run(chain: Chain, names: Sequence[str]) -> Iterator[tuple[str, Cost | str, int]]:
    """Run each step and return its cost, or the reason why it failed, and the bytes of the bundle after it."""
    for name, arguments in chain.commands().items():
        if not names or name in names or name.split()[0] in names:
            try:
                cost: Cost | str = measure((*CLI, *arguments))
            except Unfinished as error:
                cost = str(error)
            yield name, cost, _bytes(chain.folder / "device" if name == "pack" else chain.bundle)


def line(name: str, cost: Cost | str, size: int | None = None) -> str:
    """A row of the table."""
    if isinstance(cost, str):
        return f"{name:<16} failed: {cost}"
    minutes = f"{cost.seconds / 60:8.1f} {cost.processor / 60:10.1f}"
    return f"{name:<16} {minutes} {cost.peak / GB:9.2f}" + ("" if size is None else f" {size / GB:9.2f}")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with TemporaryDirectory(dir=".", prefix="large-networks-") as folder:
        yield Path(folder)


def main(arguments: Sequence[str]) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="sd15")
    parser.add_argument(
        "--channels", type=int, help="channels of a U-Net's first blocks, a multiple of 32, or of a DiT's heads"
    )
    parser.add_argument("--latent", type=int, help="height and width of x")
    parser.add_argument("--free", default="", metavar="LOW:HIGH:MULTIPLE", help="range of height and width")
    parser.add_argument("--verify", choices=("full", "quick"), default="full")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="type of the source")
    parser.add_argument("--plan", default="ddim:2")
    parser.add_argument("--target", default="cpu-x86,openvino,tensorrt")
    parser.add_argument("--trajectories", type=int, default=4)
    parser.add_argument("--verbs", default="", help="steps to run, such as calibrate,run")
    add_work(parser)
    given = parser.parse_args(arguments)
    failed, network = 0, NETWORKS[given.network]
    with work_folder(given.work) as folder:
        if not (folder / "pipeline/model_index.json").is_file():
            shutil.rmtree(folder / "pipeline", ignore_errors=True)
            count = write_pipeline(folder / "pipeline", network, given.channels, given.latent, given.dtype)
            size = _bytes(folder / "pipeline") / GB
            print(f"{count / 1e6:.0f} M weights, {size:.2f} GB in {given.dtype}", flush=True)
            write_conditions(network, folder)
            write_arrays(folder, network)
        print(f"{'':<16} {'minutes':>8} {'processor':>10} {'peak GB':>9} {'disk GB':>9}", flush=True)
        targets = tuple(given.target.split(","))
        chain = Chain(folder, given.plan, targets, given.trajectories, network, given.verify, given.free)
        for found in run(chain, given.verbs.split(",") if given.verbs else ()):
            failed += isinstance(found[1], str)
            print(line(*found), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
