"""The command that makes an int8 body, for errors about a missing one. If the last calibration on this machine refused
the body, the same command would be refused again, so the reason and its fix are given instead."""

from contextlib import suppress
from hashlib import sha256

import msgspec

from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.platforms import PLATFORMS, body_name, target_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.machine import cache

KIND: cache.Purpose = "refusals"


class Refusal(Strict, frozen=True):
    """The error because of which a calibration did not make a body."""

    what: str
    fix: str


def store_refusal(bundle: Bundle, name: str, error: UserError) -> None:
    """Store in this machine's cache why the calibration refused to write a body of a bundle."""
    cache.store(KIND, _key(bundle, name), msgspec.json.encode(Refusal(error.what, error.fix)))


def forget_refusal(bundle: Bundle, name: str) -> None:
    """Remove the stored refusal of a body of a bundle, because the body has been written since."""
    cache.remove(KIND, _key(bundle, name))


def calibrate_fix(bundle: Bundle, name: str | None = None) -> str:
    """Return the command that makes the body of this name, or any int8 body if `name` is None. If the last calibration
    refused that body, return the reason and its fix instead; for a bundle without float32, from which all bodies are
    made, that it has to be exported again."""
    if "float32" not in bundle.manifest.bodies:
        return "export it again with float32, from which other bodies are made"
    names = [body_name(platform.precision, platform.name) for platform in PLATFORMS] if name is None else [name]
    for body in names:
        if (refusal := _read_refusal(bundle, body)) is not None:
            return f"the last calibration refused {body}, because {refusal.what}; {refusal.fix}"
    return f"fewstep calibrate {quote_path(bundle.path)}" + ("" if name is None else f" --target {target_of(name)}")


def _read_refusal(bundle: Bundle, name: str) -> Refusal | None:
    content = cache.read(KIND, _key(bundle, name))
    with suppress(msgspec.DecodeError):  # written by another version
        return None if content is None else msgspec.json.decode(content, type=Refusal)
    return None


def _key(bundle: Bundle, name: str) -> str:
    manifest = open_bundle(bundle.path).manifest  # of all networks: an expert may have another prediction
    of_export = manifest.provenance.source_sha256, manifest.schedule, manifest.prediction
    facts = str(bundle.path.resolve()), of_export, name  # another Spec for the same weights may calibrate
    return sha256(msgspec.json.encode(facts)).hexdigest()[:32]
