"""What a choice of plan and precision depends on, by name, so that the error about an outdated choice can say what
changed."""

from collections.abc import Iterator
from hashlib import sha256

import msgspec

from fewstep.plans.spec import Strict
from fewstep.report.choosing.measurement_cache import machine_facts, read_cached, write_cached
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle

REPORT = "report/"  # the folder of a bundle's report
LONG = ("processor", "code of fewstep")  # facts whose values say nothing to a reader


class ChoiceFacts(Strict, frozen=True):
    """The bundle and the machine at the time of the bundle's last choice.

    day: the date in ISO 8601. bodies: a digest of each body's manifest entry, by body name. files: a digest of the
        bundle's files. machine: `machine_facts`. options: those of `fewstep choose`, as text.
    """

    day: str
    bodies: dict[str, str]
    files: str
    machine: dict[str, str]
    options: str = ""


def store_facts(bundle: Bundle, day: str, options: str = "") -> None:
    """Store digests of the bundle's bodies and files, and the properties of this machine, as those of the choice made
    on `day` (ISO 8601) with these options of `fewstep choose`."""
    write_cached(_name(bundle), _present_facts(bundle, day, options))


def last_options(bundle: Bundle) -> str:
    """Return the options of the last `fewstep choose` for the bundle at this path as text, or "" if none is stored."""
    then = read_cached(_name(bundle), ChoiceFacts)
    return "" if then is None else then.options


def describe_changes(bundle: Bundle) -> str | None:
    """Return what changed since the last choice for the bundle at this path, as "the choice of 2026-11-28 no longer
    holds: body int8-cpu-x86 was added". None if no choice is stored, or if nothing changed that it depends on."""
    then = read_cached(_name(bundle), ChoiceFacts)
    changes = () if then is None else tuple(_changes(then, _present_facts(bundle, then.day)))
    return f"the choice of {then.day} no longer holds: {', '.join(changes)}" if then and changes else None


def _changes(then: ChoiceFacts, now: ChoiceFacts) -> Iterator[str]:
    if then.bodies != now.bodies or then.files != now.files:
        names = [name for name in {**then.bodies, **now.bodies} if then.bodies.get(name) != now.bodies.get(name)]
        for name in names:
            how = "was added" if name not in then.bodies else "was removed" if name not in now.bodies else "changed"
            yield f"body {name} {how}"
        if not names:
            yield "files of the bundle changed"
    for label in {**then.machine, **now.machine}:
        before, after = (facts.machine.get(label) or "none" for facts in (then, now))
        if before != after:
            yield f"{label} changed{'' if label in LONG else f' from {before} to {after}'}"


def bodies_and_files(bundle: Bundle) -> tuple[dict[str, Body], dict[str, str]]:
    """Return the bodies of a bundle without what was measured of them, and its files without those in report/,
    which later commands write again: the page, its results, the verification."""
    bodies = {name: msgspec.structs.replace(body, trials=()) for name, body in bundle.manifest.bodies.items()}
    return bodies, {name: file for name, file in bundle.manifest.files.items() if not name.startswith(REPORT)}


def _present_facts(bundle: Bundle, day: str, options: str = "") -> ChoiceFacts:
    bodies, files = bodies_and_files(bundle)
    return ChoiceFacts(
        day, {name: _digest(body) for name, body in bodies.items()}, _digest(files), machine_facts(), options
    )


def _digest(value: object) -> str:
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:32]


def _name(bundle: Bundle) -> str:
    return _digest(("facts", str(bundle.path.resolve())))
