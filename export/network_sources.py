"""Load the sources of all networks, with the changes that options name."""

from collections.abc import Iterator, Sequence

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.expert import Expert
from fewstep.export.experts import load_expert, parse_experts
from fewstep.export.export_options import ExportOptions
from fewstep.export.light_network import refuse_cache
from fewstep.export.load_source import load_source
from fewstep.export.lora.slots import SlotRequest
from fewstep.export.options.null_option import with_nulls
from fewstep.export.options.size_option import with_sizes
from fewstep.export.spec import Source
from fewstep.graph.files.commit import open_for_update
from fewstep.runtime.lora.file import Lora, read_lora


def check_named_files(options: ExportOptions) -> None:
    """Raise UserError if the file of samples (--check) or a change (--change) does not exist."""
    if options.check is not None:
        from fewstep.measure.rollouts.conditions_file import check_file  # --help does not need it

        check_file(options.check)
    for text in options.change:
        read_change(text)


def check_sources(options: ExportOptions) -> Iterator[Source]:
    """Check that the output can be written. Return the sources of all networks, which are loaded one after the
    other."""
    check_named_files(options)
    loras, others = read_loras(options), parse_experts(options.expert, load_source)
    with open_for_update(options.output, must_exist=False):
        pass
    return load_sources(options, loras, others)


def load_sources(options: ExportOptions, loras: Sequence[Lora], others: Sequence[Expert]) -> Iterator[Source]:
    """Yield the source of each network, the denoiser first, after checking its spec. Only one is in memory at a
    time."""
    source = load_changed_source(options, loras)
    spec = source.spec
    yield source
    del source
    for expert in others:
        yield load_expert(expert, spec, options.size, options.null)


def read_loras(options: ExportOptions) -> tuple[Lora, ...]:
    return tuple(read_lora(text) for text in options.lora)


def load_changed_source(options: ExportOptions, loras: Sequence[Lora]) -> Source:
    """Load the source and apply the options' changes."""
    changes, slots = map(read_change, options.change), SlotRequest(options.lora_slots, options.rank)
    source = apply_changes(
        load_source(options.source, options.spec, options.statistics, options.call), loras, tuple(changes), slots
    )
    if options.cache is not None:
        refuse_cache(source.spec, options.expert, options.lora_slots)
    return with_nulls(with_sizes(source, options.size), options.null)
