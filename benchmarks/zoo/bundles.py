"""Bundles of the zoo that benchmarks keep: each in a folder that is named after all that it follows from."""

from hashlib import sha256
from pathlib import Path

import fewstep.export
import fewstep.models
from benchmarks.zoo.members import FOLDER, Member
from fewstep.export.export import ExportOptions, export
from fewstep.measure.workers.code_digest import PACKAGES
from fewstep.runtime.machine.code_digest import code_of
from fewstep.runtime.machine.packages import installed

CODE = (*PACKAGES, fewstep.export, fewstep.models)  # what exports and calibrates


def exported(member: Member, work: Path, *settings: object) -> Path:
    """The member's bundle in the work folder, exported unless it is there.

    Its name has a digest of the code, the packages, the member's weights and recipe, and `settings` of who adds to it.
    """
    recipes = [path.read_bytes() for path in sorted(FOLDER.glob("*.py"))]
    known = (code_of(CODE), installed(), sha256(member.weights.read_bytes()).digest(), recipes, settings)
    bundle = work / f"{member.name}-{sha256(repr(known).encode()).hexdigest()[:12]}"
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(member.source, bundle))
    return bundle
