"""FD to the data by solver and number of steps, on the CIFAR-10 denoisers, in float32 and int8, with its error.

    python -m benchmarks.solver_distances --data package --work FOLDER     # about 3 hours of two cores
    python -m benchmarks.solver_distances --page                           # the page from what was measured

The first command measures BLOCK seeds of every plan in turn, then the next ones. It keeps the features of samples in
--work, and the figures next to the page, so an interrupted call continues. The second command only writes
lab/measured/solver_distances.md and its plot.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import options
from benchmarks.distance_to_data import jackknife_distances
from benchmarks.result_store import digest, read_rows, write_rows
from benchmarks.solver_page import KEPT, PAGE, Cell, Row, draw_samples, order_rows, write_page
from benchmarks.zoo_bundles import calibration, exported
from fewstep.calibration.calibrate import calibrate
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.measure.distances.features import Extractor, open_extractor
from fewstep.measure.distances.frechet import Gaussian, fit_gaussian
from fewstep.measure.rollouts.metrics import Floats
from fewstep.models.cifar10 import data
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from zoo.members import BY_NAME, SHIPPED, Member

MEMBERS = (BY_NAME["cifar10_dit"], next(member for member in SHIPPED if member.name == "cifar10"))
STEPS = (4, 8, 20, 50)
SOLVERS = ("dpmpp_2m", "unipc_2", "ddim")
GUIDANCE = (1.0, 1.5)
FITTED = tuple(Cell(member.name, "", 1.0, f"fitted:{steps}") for member in MEMBERS for steps in (4, 8))
CALIBRATED, TRAJECTORIES = "dpmpp_2m:8", 64
BLOCK, FIRST_SEED, BATCH = 128, 10_000, 16  # seeds of a run, the first that judges, and samples of a call
BODIES = ("float32", "bfloat16", "int8")
EXTRACTOR, SHAPE = "cifar10-cnn", (3, 32, 32)
FIT_ENGINE = "openvino-bf16"  # of the bodies that fits call, in half the time of float32


@dataclass
class Judge:
    """The bodies of one denoiser, and the features of the real images."""

    member: Member
    work: Path
    extractor: Extractor
    threads: int

    @cached_property
    def bundle(self) -> Path:
        """The bundle of the float32 body, with a fitted plan for each cell of FITTED."""
        bundle = exported(self.member, self.work)
        known = {entry.evaluations for entry in load(bundle).bundle.manifest.fitted}
        for steps in (cell.steps for cell in FITTED if cell.denoiser == self.member.name):
            if steps not in known:
                fit(FitOptions(bundle, steps=steps, backend=FIT_ENGINE, features=EXTRACTOR, threads=self.threads))
        return bundle

    @cached_property
    def float32(self) -> Sampler:
        return load(self.bundle, backend=OpenVino(threads=self.threads))

    @cached_property
    def bfloat16(self) -> Sampler:
        """The float32 body, whose matrices the engine multiplies in bfloat16."""
        return load(self.bundle, backend=OpenVino(threads=self.threads, float_type="bf16"))

    @cached_property
    def int8(self) -> Sampler:
        """The body for OpenVINO, calibrated with the guidance that is judged."""
        guided = replace(self.member, guidance=GUIDANCE[-1])
        bundle = exported(guided, self.work, CALIBRATED, TRAJECTORIES)
        if not any((bundle / "graphs").glob("int8-*")):
            calibrate(calibration(guided, bundle, CALIBRATED, ("openvino",), TRAJECTORIES))
        return load(bundle, body="int8-openvino", backend=OpenVino(threads=self.threads))

    def sampler(self, body: str) -> Sampler:
        found: Sampler = getattr(self, body)
        return found

    def digest(self, cell: Cell) -> str:
        """Return a hash of all that determines the features of a cell."""
        sampler = self.sampler(cell.body)
        plan = msgspec.structs.replace(sampler.compile(cell.plan, cell.guidance), name="")
        graph = sampler.bundle.manifest.files[sampler.body.graph.file]
        return digest(cell.body, graph, sha256(msgspec.json.encode(plan)).hexdigest(), self.extractor.sha256)

    def features(self, cell: Cell, block: int) -> Floats:
        """Return the features [BLOCK, D] of the samples of one run of seeds, which are stored."""
        file = self.work / f"{self.digest(cell)}-{block}.npy"
        if not file.exists():
            first = FIRST_SEED + block * BLOCK
            made = [self.sample(cell, range(at, at + BATCH)) for at in range(first, first + BLOCK, BATCH)]
            np.save(file, np.concatenate([self.extractor.extract(each) for each in made]))
        found: Floats = np.load(file)
        return found

    def sample(self, cell: Cell, seeds: range) -> Floats:
        """Draw samples of these seeds, with the classes in turn."""
        condition = {"class": [seed % 10 for seed in seeds]}
        return self.sampler(cell.body).sample(cell.plan, seeds, condition, cell.guidance)


def cells(bodies: Sequence[str]) -> Iterator[Cell]:
    """Return the cells of these bodies. int8 is judged at the guidance of its calibration."""
    for body, guidance, solver, steps, member in product(bodies, GUIDANCE, SOLVERS, STEPS, MEMBERS):
        if body != "int8" or guidance == GUIDANCE[-1]:
            yield Cell(member.name, body, guidance, f"{solver}:{steps}")
    for body in bodies:
        if body != "int8":
            yield from (msgspec.structs.replace(cell, body=body) for cell in FITTED)


def real_features(extractor: Extractor, folder: Path | None, work: Path) -> Gaussian:
    """The features of the 10 000 test images."""
    file = work / f"test-{digest(extractor.sha256)}.npy"
    if not file.exists():
        images = data.read(folder, "test")[0]
        parts = [images[at : at + 250].astype(np.float32) / 127.5 - 1 for at in range(0, len(images), 250)]
        np.save(file, np.concatenate([extractor.extract(part) for part in parts]))
    return fit_gaussian(np.load(file))


def read_kept_rows() -> dict[Cell, Row]:
    """What was measured so far."""
    return {row.cell: row for row in read_rows(KEPT, Row)}


def measure(given: Namespace, rows: dict[Cell, Row]) -> None:
    """Add rows, run after run of seeds, and store them after each."""
    given.work.mkdir(parents=True, exist_ok=True)
    extractor = open_extractor(EXTRACTOR, SHAPE, given.threads)
    assert extractor is not None
    real = real_features(extractor, given.data, given.work)
    judges = {member.name: Judge(member, given.work, extractor, given.threads) for member in MEMBERS}
    asked = [cell for cell in cells(given.body) if all(part in str(cell) for part in given.only)]
    for block in range(-(-given.seeds // BLOCK)):
        for cell in asked:
            judge, known = judges[cell.denoiser], rows.get(cell)
            follows_from = judge.digest(cell)
            if known is not None and known.digest == follows_from and known.samples >= (block + 1) * BLOCK:
                continue
            features = np.concatenate([judge.features(cell, number) for number in range(block + 1)])
            values = tuple(round(float(distance), 3) for distance in jackknife_distances(features, real))
            row = Row(cell, len(features), values, follows_from)
            rows |= read_kept_rows() | {cell: row}  # another process may measure other cells
            write_rows(KEPT, order_rows(rows.values()))
            print(f"{cell}: {row.mean:.1f} ± {row.error:.1f}", file=sys.stderr, flush=True)
    if given.pictures:
        draw_samples(judges[MEMBERS[0].name].sample, given.body[0])


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("--data", type=Path, help=f"folder of the npm package: {data.HOW_TO_GET}")
    parser.add_argument("--seeds", type=options.positive, default=256, help="seeds of each plan (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads of a call; 0 for all cores")
    parser.add_argument(
        "--body", nargs="+", choices=BODIES, default=("float32", "int8"), help="bodies (default: float32 int8)"
    )
    parser.add_argument("--pictures", action="store_true", help="finally, also draw the grid of samples")
    options.add_work(parser, "solver-distances")
    options.add_only(parser, "cells")
    options.add_page(parser, PAGE)
    given = parser.parse_args()
    with options.refusing(parser):
        rows = read_kept_rows()
        if not given.page:
            measure(given, rows)
        elif not rows:
            raise UserError(f"{KEPT.name} has no rows", "measure first: leave --page out")
    write_page(list(rows.values()))


if __name__ == "__main__":
    main()
