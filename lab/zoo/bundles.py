"""Bundles of the zoo that benchmarks keep: each in a folder that is named after all that it follows from."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

import fewstep.export
import fewstep.models
from benchmarks.result_store import digest
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.workers.code_digest import PACKAGES
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.packages import installed_versions
from lab.zoo.members import CALIBRATION, FOLDER, HELD_OUT, Member
from lab.zoo.weight_files import check_weights

CODE = (*PACKAGES, fewstep.export, fewstep.models)  # what exports and calibrates


def exported(member: Member, work: Path, *settings: object) -> Path:
    """The member's bundle in the work folder, exported unless it is there.

    Its name has a digest of the code, the packages, the member's weights and recipe, and `settings` of who adds to it.
    """
    recipes = [path.read_bytes() for path in sorted(FOLDER.glob("*.py"))]
    weights = sha256(check_weights(member.weights).read_bytes()).digest()
    bundle = work / f"{member.name}-{digest(digest_code(CODE), installed_versions(), weights, recipes, settings)}"
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(member.source, bundle))
    return bundle


def calibration(
    member: Member, bundle: Path, plan: str, targets: Sequence[str], trajectories: int, rows: int | None = None
) -> CalibrateOptions:
    """What calibrates the bundle of a member. So many conditions that nothing draws, such as noisy recordings, are a
    file next to it: one for each trajectory by default."""
    followed, file = member.rows(rows or trajectories, CALIBRATION), bundle.with_name(f"{bundle.name}-conditions.npz")
    if followed is not None:
        np.savez(file, **followed)  # type: ignore[arg-type]
    return CalibrateOptions(
        *(bundle, plan, tuple(targets), trajectories, member.guidance), conditions=None if followed is None else file
    )


def held_out_rows(member: Member, seeds: range) -> ConditionRecords | None:
    """Conditions of a member that nothing draws, others for other held-out seeds. None for all other members."""
    return member.rows(len(seeds), HELD_OUT + seeds.start)
