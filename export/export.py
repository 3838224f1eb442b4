"""The verb `export`: export a denoiser to a verified bundle."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fewstep.export.experts import load_expert, parse_experts
from fewstep.export.export_network import NetworkOptions, export_network, package_versions
from fewstep.export.export_options import ExportOptions
from fewstep.export.light_network import add_light_network
from fewstep.export.load_source import load_source
from fewstep.export.manifest import (
    add_expert,
    choose_data_facts,
    describe_additions,
    make_manifest,
    suggest_later_commands,
)
from fewstep.export.network_sources import (
    check_named_files,
    list_names,
    load_changed_source,
    load_sources,
    read_changes,
)
from fewstep.export.options.null_option import add_null_files, read_null_values
from fewstep.export.spec import Spec
from fewstep.export.weights_only import BITS, refuse_other_options
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.graph import TIME, X
from fewstep.plans.configs.config import encode_config
from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.progress import SILENT, Progress, prefix_stages

if TYPE_CHECKING:
    from fewstep.export.load_and_trace import Evaluate


LOG = logging.getLogger("fewstep")


def export(options: ExportOptions, progress: Progress = SILENT) -> Manifest:
    """Trace, rewrite and verify a denoiser, then write the bundle. If that fails, an existing bundle is left as it was.

    Weights are held in memory only once. Those of a large network are written to the bundle's folder as soon as they
    are traced, and mapped from there. If the export fails, these files are removed.
    """
    from fewstep.export.sources.shipped_plans import (
        add_shipped_plans,
    )  # imports onnxruntime, which --help does not need

    check_named_files(options)
    refuse_other_options(options)
    with open_for_update(options.output, must_exist=False) as writer:
        changes, others = read_changes(options), parse_experts(options.expert, load_source)
        if others:  # refuse a wrong expert before minutes of work
            deque(load_sources(options, changes, others), maxlen=0)
        check_spec = None
        if options.check is not None:
            check_spec = partial(_read_check, options.check, options.null, bool(others), progress)
        how = NetworkOptions(options.precision, options.verify, package_versions(), options.cache)
        load_denoiser = partial(load_changed_source, options, changes, others)
        denoiser = export_network(writer, how, load_denoiser, progress, check_spec)
        origin = denoiser.origin
        scheduler = None
        if origin.scheduler is not None:
            scheduler = writer.add(encode_config(origin.scheduler), folder="plans", name="scheduler", suffix=".json")
        entry = msgspec.structs.replace(make_manifest(options, denoiser, changes.loras), scheduler=scheduler)
        of_samples = None if options.check is None else partial(_measure_data, options.check, origin.spec)
        entry = choose_data_facts(writer.manifest, entry, of_samples)
        experts = (*others, *origin.experts)
        names = list_names(origin.component, experts)
        for expert in experts:
            own_changes = changes.of(expert.name, names)
            load = partial(load_expert, expert, origin.spec, options.size, options.null, own_changes)
            own = export_network(writer, how, load, prefix_stages(progress, expert.name))
            entry = add_expert(entry, expert, own, options.precision)
        if denoiser.features is not None:
            entry = add_light_network(entry, denoiser.graphs[LIGHT], denoiser.features)
        entry = add_shipped_plans(writer, entry)
        if writer.manifest is not None and (gone := describe_additions(writer.manifest, entry)):
            LOG.warning(
                "%s replaces an older bundle: files derived from that one are removed (%s)%s",
                options.output,
                gone,
                suggest_later_commands(writer.manifest, options.output),
            )
        if origin.companions is not None:
            entry = origin.companions.add(writer, entry, progress, BITS.get(options.precision))
        return writer.commit(add_null_files(writer, entry, options.null))


def _measure_data(file: Path, spec: Spec) -> tuple[float, tuple[float, float] | None]:
    from fewstep.measure.spec.spec_samples import measure_data  # imports onnxruntime, which --help does not need

    return measure_data(file, spec)


def _read_check(
    file: Path, null: Sequence[str], has_experts: bool, progress: Progress, spec: Spec
) -> "Callable[[Evaluate], None]":
    """Read the samples in a file, and return a function that raises UserError if a network contradicts its spec on
    them."""
    from fewstep.measure.spec.spec_samples import read_samples  # imports onnxruntime, which --help does not need

    samples, nulls = read_samples(file, spec, spec.to is None and not has_experts), read_null_values(spec, null)

    def check(evaluate: "Evaluate") -> None:
        def network(x: Any, times: Any, conditions: Mapping[str, Any]) -> Any:
            named = {condition.input: conditions[condition.name] for condition in spec.conditions}
            if spec.positions is not None:
                times = times[:, None].repeat(spec.positions.places(spec), axis=1)
            return evaluate({X: x, TIME: times.astype("float32"), **named})

        found = samples.check(network, spec, nulls, progress)
        if found.mistake:
            raise UserError(str(found), "correct the Spec, train longer, or leave --check out")
        LOG.warning("%s", found)

    return check
