"""Whether a new export needs no verification: the bundle that it replaces has one of the same graphs."""

from collections.abc import Sequence
from dataclasses import fields
from hashlib import sha256

import msgspec

import fewstep.export
import fewstep.graph
import fewstep.plans
import fewstep.runtime
from fewstep.export.spec import Spec
from fewstep.export.verification.points import Scope
from fewstep.export.verification.verify import Verification
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.digest import digest, structure_digest
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.code_digest import digest_code

PACKAGES = (
    fewstep.export,
    fewstep.graph,
    fewstep.plans,
    fewstep.runtime,
)  # their code rewrites and verifies graphs


def digest_verified(spec: Spec, exported: Graph, prepared: PreparedDenoiser, more: Sequence[str]) -> str:
    """Return a digest of everything that is compared, and of the code that compares it. Weights are hashed only in the
    exported graph, because those of the prepared graph follow from them and from the code."""
    hashed = sha256(repr((spec, more)).encode() + digest(exported) + digest_code(PACKAGES))
    for field in fields(prepared):
        if (graph := getattr(prepared, field.name)) is not None:
            hashed.update(structure_digest(graph))
    return hashed.hexdigest()


def reusable_verification(writer: Writer, verified: str, scope: Scope) -> Verification | None:
    """Return the verification of the bundle that this export replaces, if it is for the same graphs and at least as
    thorough. Otherwise return None."""
    bundle = writer.opened
    if bundle is None or bundle.manifest.verification is None:
        return None
    try:
        verification = msgspec.json.decode(bundle.read(bundle.manifest.verification), type=Verification)
    except (UserError, msgspec.DecodeError):  # damaged; it will be replaced
        return None
    return verification if verification.verified == verified and verification.scope in ("full", scope) else None
