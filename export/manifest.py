"""The manifest of a new bundle, from what was exported."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from shlex import join, quote, split

import msgspec

from fewstep.export.expert import Expert
from fewstep.export.experts import join_conditions
from fewstep.export.export_network import ExportedNetwork, package_versions
from fewstep.export.export_options import ExportOptions, ExportPrecision
from fewstep.export.licence import read_licence
from fewstep.export.network_changes import read_network_change
from fewstep.export.options.null_option import strip_folder
from fewstep.export.weights_only import body_precision, target_of_export
from fewstep.plans.configs.classes import is_distilled_sampler
from fewstep.plans.default_grid import TRAINED, default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.runtime.bundle import manifest
from fewstep.runtime.bundle.manifest import SCHEMA, Body, Description, Manifest, Provenance
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.hub import is_name
from fewstep.runtime.lora.file import Lora

LOG = logging.getLogger("fewstep")


def add_expert(entry: Manifest, expert: Expert, own: ExportedNetwork, precision: ExportPrecision) -> Manifest:
    """Return the manifest with an expert added. Experts are in the order of their intervals, noisiest first."""
    conditions, inputs = join_conditions(entry.conditions, expert, own.origin.spec.conditions)
    network = manifest.NetworkEntry(
        until=expert.until,
        prediction=own.origin.spec.prediction,
        inputs=dict(inputs),
        bodies=_bodies(own, precision),
        source=own.origin.label,
        source_sha256=own.origin.sha256,
        heads=own.origin.spec.heads,
        steers=own.origin.spec.steers,
        prologue=own.graphs.get("prologue"),
        conditioner=own.graphs.get("conditioner"),
        verification=own.table,
        lora_slots=own.origin.lora_slots,
    )
    return msgspec.structs.replace(entry, conditions=conditions, networks={**entry.networks, expert.name: network})


def _bodies(network: ExportedNetwork, precision: ExportPrecision) -> dict[str, Body]:
    """Return the only body of an exported network, by its name."""
    form, target = body_precision(precision), target_of_export(precision)
    return {body_name(form, target): Body.from_graph(network.graphs["body"], form, target)}


def describe_additions(previous: Manifest, new: Manifest | None = None) -> str:
    """Describe what other verbs added to `previous`, the bundle that is replaced. Fitted plans that `new` also has are
    left out. Return "" if nothing but a report was added."""
    exported = () if new is None else new.bodies
    bodies = [
        name for name, body in previous.bodies.items() if name != "float32" and (body.plan or name not in exported)
    ]
    engines = [engine.file for engine in previous.engines]
    kept = () if new is None else new.fitted
    fitted = [
        f"{FittedReference(entry.evaluations)} for {entry.body}" for entry in previous.fitted if entry not in kept
    ]
    added = list(dict.fromkeys([*bodies, *engines, *fitted]))
    return ", ".join([*added, *["the report"] * (previous.report is not None)]) if added else ""


def choose_data_facts(
    previous: Manifest | None,
    new: Manifest,
    of_samples: Callable[[], tuple[float, tuple[float, float] | None]] | None,
) -> Manifest:
    """Return the manifest of an export with the largest magnitude in the data: the one in the Spec (infinity stands for
    no limit); without it, that of the samples of `--check`; without these, the one of the bundle that the export
    replaces. The mean and the standard deviation of the data are those of the samples, or of that bundle.

    of_samples: returns the largest magnitude of the samples, and their mean and standard deviation.
    """
    of_spec = new.data_limit
    if of_samples is not None:
        limit, moments = of_samples()
        new = msgspec.structs.replace(new, data_limit=limit if of_spec is None else of_spec, data_moments=moments)
    elif previous is not None and _has_same_graphs(previous, new):
        new = msgspec.structs.replace(new, data_moments=previous.data_moments)
    if of_spec == inf:
        return msgspec.structs.replace(new, data_limit=None)
    return new if previous is None else _keep_data_limit(previous, new)


def _has_same_graphs(previous: Manifest, new: Manifest) -> bool:
    before, after = (
        {name: [graph.file for graph in body.graphs] for name, body in version.bodies.items()}
        for version in (previous, new)
    )
    return all(before.get(name) == after[name] for name in after)


def _keep_data_limit(previous: Manifest, new: Manifest) -> Manifest:
    """Return the manifest of an export that replaces the bundle `previous`. If the new export has no limit of the data,
    and the graphs are the same, it gets the limit of that bundle. If the graphs differ, a warning says that the limit
    is lost."""
    limit = previous.data_limit
    if new.data_limit is not None or limit is None:
        return new
    if _has_same_graphs(previous, new):
        LOG.warning(
            "the data limit of the replaced bundle, %g, is kept, since the graphs are the same: data_limit=math.inf in "
            "the Spec removes it",
            limit,
        )
        return msgspec.structs.replace(new, data_limit=limit)
    LOG.warning(
        "the data limit of the replaced bundle, %g, is not kept, since the graphs differ: give --check FILE again, or "
        "data_limit in the Spec",
        limit,
    )
    return new


def suggest_later_commands(previous: Manifest, folder: Path) -> str:
    """Return the commands that were run on the previous bundle after its export, as recorded there, in the form "; to
    make them again: ...", or "" if there are none.

    Words are quoted again, since a manifest from another person could contain shell syntax. A calibration is left out
    if all its targets were calibrated again later, since all of its bodies were replaced.
    """
    again, later = list[str](), set[str]()
    for command in reversed(previous.provenance.commands):
        with suppress(ValueError):  # a manifest that was edited
            program, verb, _, *options = split(command)
            targets = set(options[options.index("--target") + 1].split(",")) if "--target" in options[:-1] else set()
            is_replaced = verb == "calibrate" and targets and targets <= later
            if program == "fewstep" and verb not in ("export", "pack") and not is_replaced:  # pack wrote another bundle
                again.append(join([program, verb, str(folder), *options]))
                later |= targets if verb == "calibrate" else set()
    return f"; to make them again: {' && '.join(reversed(again))}" if again else ""


def make_manifest(options: ExportOptions, denoiser: ExportedNetwork, loras: Sequence[Lora]) -> Manifest:
    origin, graphs, spec = denoiser.origin, denoiser.graphs, denoiser.origin.spec
    described = {field: getattr(spec, field) for field in Description.__struct_fields__}
    is_distilled = spec.distilled or is_distilled_sampler(origin.scheduler or {})
    usual = (
        TRAINED if spec.positions else default_grid(spec.schedule, spec.prediction)
    )  # every position goes through the same grid
    return Manifest(
        **described | {"grid": spec.grid or usual, "distilled": is_distilled},
        schema=SCHEMA,
        conditioner=graphs.get("conditioner"),
        prologue=graphs.get("prologue"),
        bodies=_bodies(denoiser, options.precision),
        provenance=Provenance(
            source=origin.label,
            source_sha256=origin.sha256,
            versions=package_versions(),
            commands=(export_command(options, origin.label, loras),),
            adapters=tuple(lora.adapter for lora in loras),
            licence=read_licence(options.source),
        ),
        files={},
        verification=denoiser.table,
        component=origin.component,
        lora_slots=origin.lora_slots,
    )


def export_command(options: ExportOptions, label: str, loras: Sequence[Lora]) -> str:
    """Return the command that repeats this export, quoted for a shell and without paths; `label` names the source."""
    recorded = replace(
        options,
        lora=tuple(lora.text for lora in loras),
        change=tuple(read_network_change(text).text for text in options.change),
        null=tuple(map(strip_folder, options.null)),
        expert=tuple(map(_strip_source_folder, options.expert)),
    )
    return recorded.command_line("export", of=f"{quote(label)} -o BUNDLE")


def _strip_source_folder(text: str) -> str:
    """Return an expert's option without the folder of its source."""
    name, _, source = text.partition("=")
    return text if is_name(source.rpartition("@")[0]) else f"{name}={Path(source).name}"


def describe_existing_additions(folder: Path) -> str:
    """Describe what later verbs added to the bundle; empty if the bundle cannot be read."""
    try:
        return describe_additions(open_bundle(folder).manifest)
    except UserError:
        return ""
