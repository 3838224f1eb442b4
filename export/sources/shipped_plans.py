"""Plans that were fitted to a shipped denoiser come with its bundle.

Each is a file in the folder of the denoiser's weights, with what `fewstep fit --output` writes and the manifest's entry
of the plan. `.ci/fitted` makes the plans of float32, which an export puts in its bundle. int8 bodies run them, too.
"""

import sys
from importlib.resources import files

import msgspec

from fewstep.export.sources.shipped import NAMES
from fewstep.graph.commit import Writer
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest
from fewstep.runtime.bundle.reading import open_bundle

FOLDER = "fitted"
BODY = "float32"  # the only one that an export makes


class ShippedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted plan as it is shipped: its entry of a manifest, and the plan's own JSON."""

    entry: FittedPlan
    plan: msgspec.Raw


def load_shipped_plans(name: str) -> tuple[tuple[FittedPlan, Plan], ...]:
    """The plans that come with a shipped denoiser, in the order of their names."""
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
    """The manifest of a new bundle with the plans that were fitted to this very denoiser, if some are shipped.

    They belong to any export of the same weights, since all compute the same. Beside experts none belongs.
    """
    source = manifest.provenance.source
    if source not in NAMES or manifest.networks:
        return manifest
    kept, graph = [], writer.known_files[manifest.bodies[BODY].graph.file]
    for entry, plan in load_shipped_plans(source):
        if plan.fitted is not None and plan.fitted.source == manifest.provenance.source_sha256:
            own = msgspec.structs.replace(plan, fitted=msgspec.structs.replace(plan.fitted, graph=graph))
            file = writer.add(encode(own), "plans", f"fitted-{entry.evaluations}-{BODY}", ".json")
            kept.append(msgspec.structs.replace(entry, file=file))
    return msgspec.structs.replace(manifest, fitted=tuple(kept))


def encode_shipped_plan(bundle_path: str, evaluations: int) -> bytes:
    """The shipped part of a plan in a bundle: for `.ci/fitted`."""
    bundle = open_bundle(bundle_path)
    entry = next(e for e in bundle.manifest.fitted if (e.evaluations, e.body) == (evaluations, BODY))
    plan = msgspec.Raw(bundle.read(entry.file))
    return msgspec.json.encode(ShippedPlan(msgspec.structs.replace(entry, file=""), plan))


if __name__ == "__main__":  # BUNDLE EVALUATIONS prints a plan
    path, count = sys.argv[1:]
    sys.stdout.write(encode_shipped_plan(path, int(count)).decode() + "\n")
