"""Plans that were fitted to a shipped denoiser and are added to its bundle.

Each is a file in the folder of the denoiser's weights. It contains the plan that `fewstep fit --output` writes, and the
plan's manifest entry. `.ci/fitted` creates the float32 plans, which an export adds to its bundle. int8 bodies run them
too.
"""

import sys
from importlib.resources import files

import msgspec

from fewstep.export.sources.shipped import NAMES
from fewstep.graph.files.commit import Writer
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest
from fewstep.runtime.bundle.reading import open_bundle

FOLDER = "fitted"
BODY = "float32"  # the only body with shipped plans


class ShippedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted plan that comes with a shipped model: its manifest entry, and the JSON of the plan."""

    entry: FittedPlan
    plan: msgspec.Raw


def load_shipped_plans(name: str) -> tuple[tuple[FittedPlan, Plan], ...]:
    """Return the plans that are shipped with a denoiser, sorted by file name."""
    folder = files("fewstep.models") / name / FOLDER
    if not folder.is_dir():
        return ()
    plans = []
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        try:
            shipped = msgspec.json.decode(file.read_bytes(), type=ShippedPlan)
        except msgspec.DecodeError as error:
            raise UserError(f"{file.name} of {name} is damaged ({error})", "install fewstep again") from None
        plans.append((shipped.entry, decode(bytes(shipped.plan), file.name)))
    return tuple(plans)


def add_shipped_plans(writer: Writer, manifest: Manifest) -> Manifest:
    """Return the manifest of a new bundle with the shipped plans that were fitted to its denoiser, if any.

    They suit any export of the same weights, since all such exports compute the same. A bundle with experts gets none.
    """
    source = manifest.provenance.source
    if source not in NAMES or manifest.networks:
        return manifest
    kept, graph = [], writer.known_files[manifest.bodies[BODY].graph.file]
    for entry, plan in load_shipped_plans(source):
        if plan.fitted is not None and plan.fitted.source == manifest.provenance.source_sha256:
            relabelled = msgspec.structs.replace(plan, fitted=msgspec.structs.replace(plan.fitted, graph=graph))
            file = writer.add(encode(relabelled), "plans", f"fitted-{entry.evaluations}-{BODY}", ".json")
            kept.append(msgspec.structs.replace(entry, file=file))
    return msgspec.structs.replace(manifest, fitted=tuple(kept))


def encode_shipped_plan(bundle_path: str, evaluations: int) -> bytes:
    """Return a fitted plan of a bundle in the format in which shipped models store it, for `.ci/fitted`."""
    bundle = open_bundle(bundle_path)
    entry = next(e for e in bundle.manifest.fitted if (e.evaluations, e.body) == (evaluations, BODY))
    plan = msgspec.Raw(bundle.read(entry.file))
    return msgspec.json.encode(ShippedPlan(msgspec.structs.replace(entry, file=""), plan))


if __name__ == "__main__":  # arguments: BUNDLE EVALUATIONS; prints a plan
    path, count = sys.argv[1:]
    sys.stdout.write(encode_shipped_plan(path, int(count)).decode() + "\n")
