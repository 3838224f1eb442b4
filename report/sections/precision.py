"""The page's section on precision maps (`calibration/precision/precision_map.py`): quality against speed, and the
sensitivity of each operation."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.calibration.precision.precision_map import FrontierPoint, PrecisionMap, decode_maps
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.selection import layer_name, select_int8_ops
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.seeds import JUDGE_SEEDS, SEARCH_SEEDS
from fewstep.report.drawing import plots
from fewstep.report.drawing.plots import Series
from fewstep.report.elements import (
    Content,
    Html,
    data,
    decibel,
    details,
    figure,
    join,
    paragraph,
    section,
    table,
    times,
)
from fewstep.report.glossary import lead_paragraph
from fewstep.runtime.bundle.reading import Bundle

SHOWN = 24  # the most sensitive operations


@dataclass(frozen=True)
class ShownMap:
    """A precision search for the page: `operations` have the names of their modules."""

    precision_map: PrecisionMap
    operations: tuple[str, ...]


def read_maps(bundle: Bundle) -> tuple[PrecisionMap, ...]:
    """Return the results of the precision searches by which the bundle's bodies were selected; empty if there are
    none."""
    file = bundle.manifest.precision
    if file is None:
        return ()
    return tuple(
        precision_map
        for precision_map in decode_maps(bundle.read(file), file)
        if precision_map.body in bundle.manifest.bodies
    )


def read_shown_maps(bundle: Bundle) -> tuple[ShownMap, ...]:
    """Return the stored maps with the names of operations in the float graph. A stored map names only tensors."""
    maps = read_maps(bundle)
    if not maps:
        return ()
    prepared = load_stored(bundle, bundle.body("float32").graph)
    names = {op.name: layer_name(op.node) for op in select_int8_ops(prepared)}
    return tuple(
        ShownMap(precision_map, tuple(names.get(name, name) for name in precision_map.operations))
        for precision_map in maps
    )


def precision_section(maps: Sequence[ShownMap]) -> Html:
    """Return the section with every precision map: its Pareto frontier, the deployed point, and the sensitivities."""
    lead = lead_paragraph(
        "The quality and the time of keeping operations in float. Quality is measured closed loop on the deployed "
        f"graphs. The {len(SEARCH_SEEDS)} seeds of the search favour the points that it chooses. The deployed point is "
        f"also measured on {len(JUDGE_SEEDS)} other seeds. If a quality was requested, it had to be reached on these "
        "seeds, which favours the point slightly. \N{PLUS-MINUS SIGN} is the standard error of a mean. Speed is the "
        "time of a step on the machine that calibrated: measured with these graphs, or estimated."
    )
    return section("Precision map", lead, *(_map(precision_map) for precision_map in maps))


def _map(shown: ShownMap) -> Html:
    precision_map = shown.precision_map
    deployed = precision_map.deployed
    sentence = paragraph(
        Html("<b>"),
        precision_map.body,
        Html("</b>"),
        f" along {precision_map.plan}, requested {precision_map.asked}: ",
        _quality(deployed.quality, deployed.standard_error),
        f" on {_seed_source(deployed)} at ",
        times(precision_map.float_time / deployed.time),
        f" the speed of float32 ({_time_source(deployed)}); without a bound it would be ",
        _quality(precision_map.all_int8, precision_map.all_int8_error),
        " at ",
        times(precision_map.float_time),
        ".",
    )
    points = [point for point in precision_map.frontier if point.quality < CEILING] or [*precision_map.frontier]
    speeds = [precision_map.float_time / point.time for point in points]
    curves = [Series("frontier, on the seeds of the search", speeds, [_search_quality(point) for point in points], 0)]
    if deployed.quality < CEILING or len(points) == len(precision_map.frontier):
        at = [precision_map.float_time / deployed.time]
        curves.append(Series(f"deployed, on {_seed_source(deployed)}", at, [deployed.quality], 1))
    frontier = figure(
        Html(plots.line_plot(curves, "times as fast as float32", "PSNR (dB)")),
        "Each point is a set of operations that stay in float; no other tried set is both faster and better. "
        + "Float32 itself, which has no error, is not drawn. " * (len(points) < len(precision_map.frontier))
        + "fewstep calibrate with --quality or --speed deploys another point.",
    )
    rows: list[Sequence[Content]] = [
        [
            _counts_text(precision_map, point),
            "deployed" if point.in_float == deployed.in_float else "",
            _quality(point.quality, point.standard_error),
            _seed_source(point),
            times(precision_map.float_time / point.time),
            _time_source(point),
        ]
        for point in _add_deployed(precision_map)
    ]
    head = ["in float", "", "PSNR", "on", "speed", "which is"]
    folded = details("The frontier as a table", table(head, rows, text_columns=2))
    return join([sentence, frontier, folded, _sensitivity(shown)])


def _add_deployed(precision_map: PrecisionMap) -> list[FrontierPoint]:
    """Return the frontier, fastest first, including the deployed point.

    Another point may dominate the deployed one on the search seeds, yet have missed the bound on the judge seeds.
    """
    others = [point for point in precision_map.frontier if point.in_float != precision_map.deployed.in_float]
    return sorted([*others, precision_map.deployed], key=lambda point: point.time)


def _quality(value: float, error: float | None) -> Html:
    return decibel(value) if error is None else join([decibel(value), f" \N{PLUS-MINUS SIGN} {error:.1f}"])


def _search_quality(point: FrontierPoint) -> float:
    """Return the quality of a body on the seeds of the search, which are the same for all points of the plot."""
    return point.quality if point.searched is None else point.searched


def _seed_source(point: FrontierPoint) -> str:
    return "seeds of the search" if point.standard_error is None else "other seeds"


def _sensitivity(shown: ShownMap) -> Html:
    """Return the most sensitive operations, with the quality that each gains in float (the largest of all range
    groups)."""
    precision_map = shown.precision_map
    in_float = {op for ops in precision_map.deployed.in_float for op in ops}
    gains = [max(of_groups) for of_groups in precision_map.gains]
    most = sorted(range(len(gains)), key=lambda op: -gains[op])[:SHOWN]
    rows = [
        [shown.operations[op], "float" if op in in_float else "int8", data(gains[op], f"{gains[op]:.2g} dB")]
        for op in most
    ]
    part = f"the {len(most)} with the largest gain, of {len(gains)}" if len(most) < len(gains) else "all"
    note = f"The gain in PSNR of the finished samples if only this operation is in float. Operations shown: {part}."
    return join([paragraph(note), table(["operation", "deployed in", "gain"], rows, text_columns=2)])


def _time_source(point: FrontierPoint) -> str:
    """Return the source of a point's time. Maps of earlier versions have only estimates."""
    return "measured" if point.time_is_measured else "estimated"


def _counts_text(precision_map: PrecisionMap, point: FrontierPoint) -> str:
    counts = [len(ops) for ops in point.in_float]
    return f"{', '.join(map(str, counts))} of {len(precision_map.operations)} operations" if any(counts) else "none"
