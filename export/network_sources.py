"""Load the sources of all networks, with the changes that options name."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.export.changes import apply_changes
from fewstep.export.expert import Expert
from fewstep.export.experts import load_expert, parse_experts
from fewstep.export.export_options import ExportOptions
from fewstep.export.light_network import refuse_cache
from fewstep.export.load_source import load_source
from fewstep.export.lora.slots import find_slots
from fewstep.export.network_changes import Changes, NetworkChanges, read_network_change
from fewstep.export.options.null_option import with_nulls
from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.names.network_name import split_network
from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import network_names
from fewstep.runtime.lora.file import read_lora
from fewstep.runtime.lora.networks import describe_targets, loras_of

if TYPE_CHECKING:
    from torch import nn

LOG = logging.getLogger("fewstep")


def check_named_files(options: ExportOptions) -> None:
    """Raise UserError if the file of samples (--check) or a change (--change) does not exist."""
    if options.check is not None:
        from fewstep.measure.rollouts.conditions_file import check_file  # --help does not need it

        check_file(options.check)
    for text in options.change:
        read_network_change(text)


def check_sources(options: ExportOptions) -> Iterator[Source]:
    """Check that the output can be written. Return the sources of all networks, which are loaded one after the
    other."""
    check_named_files(options)
    changes, others = read_changes(options), parse_experts(options.expert, load_source)
    with open_for_update(options.output, must_exist=False):
        pass
    return load_sources(options, changes, others)


def load_sources(options: ExportOptions, changes: Changes, others: Sequence[Expert]) -> Iterator[Source]:
    """Yield the source of each network, the denoiser first, after checking its spec. Only one is in memory at a
    time."""
    source = load_changed_source(options, changes, others)
    spec, experts = source.spec, (*others, *experts_of(source))
    names = names_of(source, experts)
    yield source
    del source
    for expert in experts:
        yield load_expert(expert, spec, options.size, options.null, changes.of(expert.name, names))


def read_changes(options: ExportOptions) -> Changes:
    """Read the options that change networks, and their files."""
    return Changes(
        tuple(map(read_lora, options.lora)),
        tuple(map(read_network_change, options.change)),
        tuple(map(split_network, options.lora_slots)),
        options.rank,
    )


def load_changed_source(options: ExportOptions, changes: Changes, others: Sequence[Expert]) -> Source:
    """Load the source and apply those changes that name it. `others` are the experts of the options."""
    if not others:
        _check_folder(Path(options.source), changes)
    source = load_source(
        options.source, options.spec, options.statistics, options.call, options.config, options.without
    )
    names = names_of(source, (*others, *experts_of(source)))
    own = changes.of(names[0], names)
    for expert in (*others, *experts_of(source)):  # refuse what does not fit before the first network is exported
        if expert.outline is not None:
            _check_denoiser(expert.outline, changes.of(expert.name, names))
    _say_what_was_compared(source, options)
    source = apply_changes(source, own.loras, own.changes, own.slots)
    if options.cache is not None:
        refuse_cache(source.spec, options.expert, options.lora_slots)
    return with_nulls(with_sizes(source, options.size), options.null)


def _say_what_was_compared(source: Source, options: ExportOptions) -> None:
    """Log that a recorded pipeline was compared without the options that change its networks after that."""
    changing = " and ".join(f"--{name}" for name in ("lora", "change") if getattr(options, name))
    if changing and isinstance(source, TorchSource) and source.check_sizes is not None:
        what = (
            "%s: the pipeline was compared without %s, which changes the weights now; its graphs are verified with it"
        )
        LOG.warning(what, source.label, changing)


def _check_folder(folder: Path, changes: Changes) -> None:
    """Raise UserError for options that fit no denoiser of a folder, before minutes of work."""
    kind = find_folder_kind(folder)
    outlines = {} if kind is None or kind.outlines is None else kind.outlines(folder)
    names = tuple(outlines)
    for name, outline in outlines.items():
        has_one = len(names) == 1  # which options need not name
        changed = NetworkChanges(loras_of(name, names, changes.loras)) if has_one else changes.of(name, names)
        _check_denoiser(outline, changed)


def _check_denoiser(outline: "Callable[[], nn.Module]", changes: NetworkChanges) -> None:
    if not (changes.loras or changes.slots):
        return
    from fewstep.export.lora.merge import check_fit

    module = outline()
    for lora in changes.loras:
        check_fit(module, lora)
    if changes.slots:
        find_slots(module, changes.slots)


def experts_of(source: Source) -> Sequence[Expert]:
    """Return the experts that a source itself has, as the folder of a pipeline with two networks does."""
    return source.experts if isinstance(source, TorchSource) else ()


def names_of(source: Source, experts: Sequence[Expert]) -> tuple[str, ...]:
    """Return the names by which options name the networks of an export, the denoiser's first. Raises UserError if an
    expert has the denoiser's name."""
    return list_names(source.component if isinstance(source, TorchSource) else None, experts)


def list_names(component: str | None, experts: Sequence[Expert]) -> tuple[str, ...]:
    """Return the names of networks: the denoiser's component or, if it is unknown, DENOISER, and the experts'."""
    names = (component or DENOISER, *(expert.name for expert in experts))
    if names[0] in names[1:]:
        raise UserError(f"an expert has the name of the denoiser itself, {names[0]}", "give the expert another name")
    return names


def describe_loras(options: ExportOptions, manifest: Manifest) -> list[str]:
    """Return a line for each LoRA file with the networks of an export that it changes, if there are several."""
    names = tuple(network_names(manifest))
    return describe_targets(names, [*map(read_lora, options.lora)]) if len(names) > 1 else []
