"""Export with weights in 8 or 4 bits: the graphs of the bundle are written in that form only, never in float32."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fewstep.export.export_options import ExportOptions, ExportPrecision
from fewstep.export.verification.stored import check_stored_weights
from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_weights import can_have_4_bits, select_stored_ops, store_nearest
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Precision
from fewstep.runtime.bundle.platforms import INT4_WEIGHTS, INT8_WEIGHTS, PORTABLE, Bits, Platform

LOG = logging.getLogger("fewstep")
PLATFORMS: Mapping[str, Platform] = MappingProxyType({"int8": INT8_WEIGHTS, "int4": INT4_WEIGHTS})
BITS: Mapping[str, Bits] = MappingProxyType({"int8": 8, "int4": 4})


@dataclass(frozen=True)
class StoredGraph:
    """A graph as it was written: its file, its weight files, and the graph that is read from them. `is_rounded` is
    False if none of its weights could be stored as integers."""

    file: str
    data: tuple[str, ...]
    graph: Graph
    is_rounded: bool


def target_of_export(precision: ExportPrecision) -> str:
    """Return the target of the bodies of an export."""
    return PLATFORMS[precision].name if precision in PLATFORMS else PORTABLE


def body_precision(precision: ExportPrecision) -> Precision:
    """Return the precision of the bodies of an export, as in `Body.precision`."""
    if precision == "float32" or precision == "float16":
        return precision
    return PLATFORMS[precision].precision


def refuse_other_options(options: ExportOptions) -> None:
    """Raise UserError for options that need weights in float, if the export has none."""
    given = {"--cache": options.cache is not None, "--lora-slots": bool(options.lora_slots)}
    if options.precision in BITS and (named := next((name for name, is_given in given.items() if is_given), None)):
        raise UserError(
            f"{named} needs float weights, and --precision {options.precision} writes none",
            f"leave out {named}, or --precision",
        )


def describe_rounding(precision: ExportPrecision) -> tuple[str, ...]:
    """Return a sentence, as a tuple of one, on what an export does not know of rounded weights; an empty tuple without
    rounding."""
    if (bits := BITS.get(precision)) is None:
        return ()
    return (
        f"its samples are not judged: weights were rounded to the nearest of {bits} bits, and only one call of each "
        f"network was compared. An export in float32 and fewstep calibrate --target {target_of_export(precision)} "
        "compare samples and pictures, and round with less loss",
    )


def check_bits(body: Graph, bits: Bits) -> None:
    """Raise UserError if no weight of a body can have this number of bits."""
    ops = select_stored_ops(body)
    if not ops:
        raise UserError(f"no weight of graph {body.name!r} can be stored in 8 bits", "leave --precision out")
    if bits == 4 and not any(can_have_4_bits(op, body) for op in ops):
        what = f"no weight of graph {body.name!r} can be stored in 4 bits, which only matrix products have"
        raise UserError(what, "store 8 bits: --precision int8")


def store_quantized(writer: Writer, graph: Graph, name: str, bits: Bits) -> StoredGraph:
    """Write a graph with its weights in 8 bits, or those of matrix products in 4 bits, each number as the nearest one.
    The file is then read again, and each weight in it is compared with the graph's."""
    stored = store_nearest(graph, bits)
    file, data = io.store(writer, stored, name)
    written = io.load(writer.bundle / file, writer.bundle)
    check_stored_weights(written, graph)
    return StoredGraph(file, data, written, stored.nodes != graph.nodes)
