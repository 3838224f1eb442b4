"""Bundles of the zoo that benchmarks store, each in a folder whose name identifies everything that determines it."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

import fewstep.export
import fewstep.models
from benchmarks.result_store import digest
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.workers.code_digest import PACKAGES
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.packages import package_versions
from zoo.members import CALIBRATION, FOLDER, HELD_OUT, Member
from zoo.weight_files import check_weights

CODE = (*PACKAGES, fewstep.export, fewstep.models)  # the packages that export and calibrate


def exported(member: Member, work: Path, *settings: object) -> Path:
    """Return the member's bundle in the work folder, which is exported unless it exists.

    Its name contains a digest of the code, the packages, the member's weights and recipe, and `settings`, which the
    caller may add.
    """
    recipes = [path.read_bytes() for path in sorted(FOLDER.glob("*.py"))]
    weights = sha256(check_weights(member.weights).read_bytes()).digest()
    bundle = work / f"{member.name}-{digest(digest_code(CODE), package_versions(), weights, recipes, settings)}"
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(member.source, bundle))
    return bundle


def calibration(
    member: Member, bundle: Path, plan: str, targets: Sequence[str], trajectories: int, rows: int | None = None
) -> CalibrateOptions:
    """Return the options that calibrate a member's bundle. Conditions that fewstep cannot draw, such as noisy
    recordings, are written to a file next to the bundle: `rows` of them, by default one for each trajectory."""
    followed, file = member.rows(rows or trajectories, CALIBRATION), bundle.with_name(f"{bundle.name}-conditions.npz")
    if followed is not None:
        np.savez(file, **followed)  # type: ignore[arg-type]
    return CalibrateOptions(
        *(bundle, parse_plan_text(plan), tuple(targets), trajectories, member.guidance),
        conditions=None if followed is None else file,
    )


def held_out_rows(member: Member, seeds: range) -> ConditionRecords | None:
    """Return separate conditions for the held-out seeds, if fewstep cannot draw the member's conditions; otherwise
    None."""
    return member.rows(len(seeds), HELD_OUT + seeds.start)
