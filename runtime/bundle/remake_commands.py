"""The commands that make lost files of a bundle again, from its recorded commands, for errors about such files."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shlex import join, split

from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.file import decode
from fewstep.plans.guidance import as_guidance, weight_of
from fewstep.runtime.bundle.conditions import has_unconditional_form
from fewstep.runtime.bundle.manifest import Body, FittedPlan, Manifest
from fewstep.runtime.bundle.networks import networks, select_network

CALIBRATE = "fewstep calibrate BUNDLE"
EXPORT = "fewstep export SOURCE -o BUNDLE"


def export_command(manifest: Manifest, path: Path) -> str:
    """Return the recorded command line of `fewstep export`, for the bundle at `path`. Files have no folders in it. All
    words are quoted, since the user runs what a bundle says."""
    chosen = EXPORT.split()
    for command in manifest.provenance.commands:
        with suppress(ValueError):  # a shell cannot read it
            chosen = words if (words := split(command))[:2] == chosen[:2] else chosen
    return join(chosen).replace("-o BUNDLE", f"-o {quote_path(path)}", 1)


def refit_command(path: Path, manifest: Manifest, steps: int, weight: float | None, lead: str = "") -> str:
    """Return `lead` and the command line that fits a plan of `steps` evaluations at a guidance weight. A weight of None
    means no guidance; for a calibrated bundle, the command line says so, because its default is the guidance of the
    calibration.

    A fit needs the float32 body. If the bundle has none, the result is a sentence that says in which bundle to fit.
    """
    if "float32" not in manifest.bodies:  # `fewstep pack` left it out
        return "fit it in the bundle that this was packed from"
    is_calibrated = any(body.plan is not None for body in manifest.bodies.values())
    if weight is None and is_calibrated and has_unconditional_form(manifest.conditions):
        weight = 1.0
    return f"{lead}fewstep fit {quote_path(path)} --steps {steps}" + (
        "" if weight is None else f" --guidance {weight:g}"
    )


def weight_of_fit(path: Path, manifest: Manifest, entry: FittedPlan) -> float | None:
    """Return the guidance weight of a fitted plan whose file is lost; None if it is unknown.

    It is read from a recorded fit command whose plan cannot be read. Without such a command, it is the weight of the
    readable plans, if all have the same.
    """
    uses = {}
    for each in manifest.fitted:
        with suppress(OSError, UserError):
            plan = decode((path / each.file).read_bytes(), each.file)
            uses[each.file] = weight_of(plan.guidance), str(each.evaluations)
    recorded = filter(None, map(_parse_fit_command, manifest.provenance.commands))
    lost = [use for use in recorded if use[1] == str(entry.evaluations) and use not in uses.values()]
    others = {weight for weight, _ in uses.values()}
    return lost[-1][0] if lost else others.pop() if len(others) == 1 else None


def _parse_fit_command(command: str) -> tuple[float | None, str] | None:
    """Return the guidance weight and the evaluations of a recorded fit command; None for other commands."""
    if not command.startswith("fewstep fit "):
        return None
    options = {"steps": "6", "guidance": "1"} | read_command_options(command)
    return weight_of(as_guidance(float(options["guidance"]))), options["steps"]


def recalibrate_command(manifest: Manifest, path: Path, file: str | None = None) -> str:
    """Return the recorded command line of `fewstep calibrate` that made a file, for the bundle at `path`: the last one
    for the plan and a target of the file or, if none is, the last one of all.

    Without its options a calibration would use the defaults. Files have no folders in it.
    """
    recorded = [command for command in manifest.provenance.commands if f"{command} ".startswith(f"{CALIBRATE} ")]
    users = [] if file is None else [body for body in _list_bodies(manifest) if _uses(manifest, body, file)]
    plans = {body.plan for body in users} | {name for name, plan in manifest.plans.items() if plan == file}
    made = [command for command in recorded if _makes(command, plans, {body.target for body in users})]
    return (made or recorded or [CALIBRATE])[-1].replace("BUNDLE", quote_path(path), 1)


def read_command_options(command: str) -> dict[str, str]:
    """Return the options of a recorded command by the names of their fields; the value of a flag is "", and values of
    an option that is repeated are joined by commas. Empty for a command that a shell could not read, which only a
    damaged manifest has."""
    try:
        words = split(command)
    except ValueError:
        return {}
    options = dict[str, str]()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, value = word.removeprefix("--").replace("-", "_"), "" if following.startswith("--") else following
            options[name] = f"{options[name]},{value}" if name in options else value
    return options


def _list_bodies(manifest: Manifest) -> Iterator[Body]:
    """Yield the calibrated bodies of all networks."""
    for name in networks(manifest):
        yield from (body for body in select_network(manifest, name).bodies.values() if body.plan is not None)


def _uses(manifest: Manifest, body: Body, file: str) -> bool:
    graphs = {name for graph in (*body.graphs, *body.replaces.values()) for name in (graph.file, *graph.data)}
    return file in graphs or file in (body.ranges, manifest.plans.get(str(body.plan)))


def _makes(command: str, plans: set[str | None], targets: set[str]) -> bool:
    """Return whether a recorded calibration was along one of the plans, and for one of the targets, if any."""
    options = read_command_options(command)
    is_for_target = not targets or not targets.isdisjoint(options.get("target", "").split(","))
    return options.get("plan") in plans and is_for_target
