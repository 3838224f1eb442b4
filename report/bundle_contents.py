"""The contents of a bundle: its graphs as they run here, the type of each operation and the reason for it, plans,
sizes.

The structs of this file are the JSON of `fewstep inspect`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.graph.engines.engine_costs import EngineCost, read_costs
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.measure.bodies import ranges_files
from fewstep.plans.any_plan import plan_headline
from fewstep.plans.configs.recorded import read_steps
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import describe, weight_of
from fewstep.report.graph_contents import BodyContents, GraphContents, Struct, read_body_contents, read_graph_contents
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.bundle.remake_commands import refit_command
from fewstep.runtime.kinds.kind import companions
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans


@dataclass(frozen=True)
class InspectOptions(BundleOptions):
    """Show the contents of a bundle: graphs, plans, engines, sizes, and the type of each operation with its reason.

    bundle: The folder of the bundle (an exported model), or a file from `fewstep bake`.
    operations: List every matrix product and convolution. Default: only their number.
    """

    operations: bool = False


class RangesContents(Struct, frozen=True):
    """A table of activation ranges: the bodies quantized with it, the plan along which it was calibrated, the method,
    and the numbers of tensors and of range groups."""

    bodies: tuple[str, ...]
    file: str
    plan: str
    method: str
    tensors: int
    groups: int


class FittedContents(FittedPlan, frozen=True):
    """A fitted plan with its guidance as text, and the command that fits it again. If the command is for another
    bundle, `command` is a sentence that says so."""

    guidance: str = ""
    command: str = ""


class VerifiedStage(Struct, frozen=True, forbid_unknown_fields=False):
    """The largest difference from the original denoiser at one stage of `export`, over all compared points."""

    stage: str
    relative: float
    time: float
    batch: int
    edge: str = ""  # the value of a condition, as "mask all 0"
    points: int = 1


class VerifiedStages(Struct, frozen=True, forbid_unknown_fields=False):
    """The table of comparisons made when the bundle was verified."""

    comparisons: tuple[VerifiedStage, ...]


class NetworkContents(Struct, frozen=True):
    """The graphs of one network. Everything else about it is in the manifest."""

    conditioner: GraphContents | None
    prologue: GraphContents | None
    bodies: dict[str, BodyContents]


class Contents(NetworkContents, frozen=True):
    """A bundle: its manifest and the contents of its files. Sizes are in bytes. The graphs are the denoiser's."""

    path: str
    bytes: int
    manifest: Manifest
    verified: tuple[VerifiedStage, ...]
    plans: dict[str, str]  # one line each
    fitted: tuple[FittedContents, ...]
    ranges: tuple[RangesContents, ...]
    files: dict[str, int]
    companions: dict[str, GraphContents]
    scheduler: str | None  # the diffusers class of the denoiser's own scheduler
    unreadable: dict[str, str]  # each missing or damaged file -> its fault and the fix
    networks: dict[str, NetworkContents]  # networks besides the denoiser
    engines: dict[str, EngineCost]  # the work of a step in the denoiser's engines, by file, if it is known
    scheduler_steps: tuple[int, ...] = ()  # the numbers of steps that are stored as recorded, if no rule gives them


def inspect(options: InspectOptions) -> Contents:
    """Return the contents of a bundle. Every graph is read; a graph that onnxruntime can run is also loaded once."""
    bundle = options.open()
    manifest = bundle.manifest
    files, unreadable = _files(bundle)
    stored = {name: file for name, file in manifest.plans.items() if file not in unreadable}
    plans = {name: plan_headline(decode_any(bundle.read(file), file)) for name, file in stored.items()}
    return Contents(
        path=str(options.bundle),
        bytes=sum(files.values()) + (bundle.path / MANIFEST).stat().st_size,
        manifest=manifest,
        verified=() if manifest.verification in unreadable else read_verified_stages(bundle),
        plans=plans,
        fitted=read_fitted_contents(bundle),
        ranges=_ranges(bundle, unreadable),
        files=files,
        companions={name: read_graph_contents(bundle, graph)[0] for name, graph in companions(manifest).items()},
        scheduler=None if manifest.scheduler in unreadable else _scheduler(bundle),
        scheduler_steps=() if manifest.scheduler in unreadable else _scheduler_steps(bundle),
        unreadable=unreadable,
        networks={name: _network(bundle.select_network(name), unreadable) for name in manifest.networks},
        engines=read_costs(bundle),
        **msgspec.structs.asdict(_network(bundle, unreadable)),
    )


def _network(bundle: Bundle, unreadable: Collection[str]) -> NetworkContents:
    """Return the graphs of a bundle's denoiser, or of the network that was selected in the bundle."""
    manifest, base = bundle.manifest, bundle.manifest.bodies.get("float32")
    prepared = None if base is None else load_stored(bundle, base.graph)
    bodies = {
        name: read_body_contents(bundle, name, body, prepared, unreadable) for name, body in manifest.bodies.items()
    }
    conditioner, prologue = (
        None if graph is None else read_graph_contents(bundle, graph)[0]
        for graph in (manifest.conditioner, manifest.prologue)
    )
    return NetworkContents(conditioner, prologue, bodies)


def _files(bundle: Bundle) -> tuple[dict[str, int], dict[str, str]]:
    """Return the sizes of the files that can be read, and, for each other file, what is wrong with it and the fix."""
    sizes, unreadable = dict[str, int](), dict[str, str]()
    for name in bundle.manifest.files:
        try:
            sizes[name] = bundle.file(name).stat().st_size
        except UserError as error:
            unreadable[name] = str(error)
    return sizes, unreadable


def _scheduler(bundle: Bundle) -> str | None:
    """Return the class name in the scheduler config of a bundle; None without one."""
    file = bundle.manifest.scheduler
    config = None if file is None else bundle.decode(file, dict[str, Any])
    return None if config is None else str(config.get("_class_name"))


def _scheduler_steps(bundle: Bundle) -> tuple[int, ...]:
    """Return the numbers of steps that are stored as recorded in the scheduler config of a bundle."""
    file = bundle.manifest.scheduler
    stored = None if file is None else read_steps(bundle.decode(file, dict[str, Any]))
    return tuple(sorted(stored or ()))


def read_fitted_contents(bundle: Bundle) -> tuple[FittedContents, ...]:
    """Return the fitted plans of a bundle, without those whose files cannot be read."""
    manifest, entries = bundle.manifest, []
    for each in manifest.fitted:
        for plan in read_fitted_plans(bundle, [each])[0]:
            command = refit_command(bundle.path, manifest, each.evaluations, weight_of(plan.guidance))
            entry, said = msgspec.structs.asdict(each), describe(plan.guidance)
            entries.append(FittedContents(**entry, guidance=said, command=command))
    return tuple(entries)


def _ranges(bundle: Bundle, unreadable: Collection[str]) -> tuple[RangesContents, ...]:
    tables = []
    for file, bodies in ranges_files(bundle).items():
        if file in unreadable:
            continue
        own = load_ranges(bundle.file(file))
        tables.append(RangesContents(bodies, file, own.plan, own.method, len(own.tensors), len(own.groups) + 1))
    return tuple(tables)


def read_verified_stages(bundle: Bundle) -> tuple[VerifiedStage, ...]:
    """Return the largest difference at each stage of export, read from the bundle's verification table; empty if it has
    none."""
    file = bundle.manifest.verification
    if file is None:
        return ()
    by_stage: dict[str, list[VerifiedStage]] = {}
    for comparison in bundle.decode(file, VerifiedStages).comparisons:
        by_stage.setdefault(comparison.stage, []).append(comparison)
    return tuple(
        msgspec.structs.replace(max(own, key=lambda comparison: comparison.relative), points=len(own))
        for own in by_stage.values()
    )
