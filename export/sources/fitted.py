"""Plans that were fitted to a shipped denoiser come with its bundle.

Each is a file in the folder of the denoiser's weights, with what `fewstep fit --output` writes and the manifest's entry
of the plan. `.ci/fitted` makes the plans of float32, which an export puts in its bundle. Plans of int8 belong to the
body that `.ci/ready` calibrates, and to the ready bundle.
"""

import sys
from importlib.resources import files
from pathlib import Path

import msgspec

from fewstep.export.sources.shipped import NAMES
from fewstep.graph.commit import Writer, open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest
from fewstep.runtime.bundle.platforms import CPU_ARM, CPU_X86, body_name
from fewstep.runtime.bundle.reading import open_bundle

FOLDER = "fitted"
BODY = "float32"  # the only one that an export makes
TWINS = {  # of one calibration, with bitwise the same samples where products are exact
    body_name("int8", CPU_X86.name): body_name("int8", CPU_ARM.name)
}


class ShippedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted plan as it is shipped: its entry of a manifest, and the plan's own JSON."""

    entry: FittedPlan
    plan: msgspec.Raw


def shipped_plans(name: str) -> tuple[tuple[FittedPlan, Plan], ...]:
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


def with_fitted(writer: Writer, manifest: Manifest) -> Manifest:
    """The manifest of a new bundle with the plans that were fitted to this very denoiser, if some are shipped.

    Plans of float32 belong to any export of the same weights, since they compute the same. Plans of int8 belong to
    the very graph that they were fitted to, and to its twin of the same calibration.
    """
    source = manifest.provenance.source
    if source not in NAMES:
        return manifest
    kept = []
    for entry, plan in shipped_plans(source):
        body, fitted = manifest.bodies.get(entry.body), plan.fitted
        if body is None or fitted is None or fitted.source != manifest.provenance.source_sha256:
            continue
        if entry.body != BODY and fitted.graph != writer.known[body.graph.file]:
            continue
        for name in (entry.body, TWINS.get(entry.body, "")):
            if name in manifest.bodies:
                graph = writer.known[manifest.bodies[name].graph.file]
                own = msgspec.structs.replace(plan, fitted=msgspec.structs.replace(fitted, body=name, graph=graph))
                file = writer.add(encode(own), "plans", f"fitted-{entry.evaluations}-{name}", ".json")
                kept.append(msgspec.structs.replace(entry, body=name, file=file))
    return msgspec.structs.replace(manifest, fitted=tuple(kept))


def add_fitted(bundle_path: str) -> int:
    """Put the shipped plans of a bundle's bodies in it: for `.ci/ready`. Returns their number."""
    with open_for_update(Path(bundle_path), must_exist=True, verb="fit") as writer:
        manifest = with_fitted(writer, open_bundle(bundle_path).manifest)
        writer.commit(manifest)
    return len(manifest.fitted)


def shipped_file(bundle_path: str, evaluations: int, body: str = BODY) -> bytes:
    """What is shipped of a plan in a bundle: for `.ci/fitted`."""
    bundle = open_bundle(bundle_path)
    entry = next(e for e in bundle.manifest.fitted if (e.evaluations, e.body) == (evaluations, body))
    plan = msgspec.Raw(bundle.read(entry.file))
    return msgspec.json.encode(ShippedPlan(msgspec.structs.replace(entry, file=""), plan))


if __name__ == "__main__":  # BUNDLE EVALUATIONS [BODY] prints a plan; BUNDLE alone gets its plans
    if len(sys.argv) == 2:
        sys.stdout.write(f"{add_fitted(sys.argv[1])} fitted plans\n")
    else:
        path, count, *body = sys.argv[1:]
        sys.stdout.write(shipped_file(path, int(count), *body).decode() + "\n")
