"""The page's section on precision maps: quality against speed, and where each operation matters."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.calibration.precision.precision_map import FrontierPoint, PrecisionMap, decode_maps
from fewstep.graph import io
from fewstep.graph.selection import select_int8_ops
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
from fewstep.report.operations import layer_name
from fewstep.runtime.bundle.reading import Bundle

SHOWN = 24  # operations: those that matter most


@dataclass(frozen=True)
class ShownMap:
    """A search as the page has it: `operations` by the names of their modules."""

    precision_map: PrecisionMap
    operations: tuple[str, ...]


def read_maps(bundle: Bundle) -> tuple[PrecisionMap, ...]:
    """The searches that the bundle's own bodies come from."""
    file = bundle.manifest.precision
    if file is None:
        return ()
    return tuple(each for each in decode_maps(bundle.read(file), file) if each.body in bundle.manifest.bodies)


def read_shown_maps(bundle: Bundle) -> tuple[ShownMap, ...]:
    """The stored maps, with the names of the bundle's float graph and plans. A map itself names tensors."""
    maps = read_maps(bundle)
    if not maps:
        return ()
    prepared = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    names = {op.name: layer_name(op.node) for op in select_int8_ops(prepared)}
    return tuple(ShownMap(each, tuple(names.get(name, name) for name in each.operations)) for each in maps)


def precision_section(maps: Sequence[ShownMap]) -> Html:
    """Every map with its frontier, the point that is deployed, and its sensitivities."""
    lead = lead_paragraph(
        "What leaving operations in float gives and costs. Quality is measured closed loop on the deployed graphs: on "
        f"the {len(SEARCH_SEEDS)} seeds of the search, which flatter what it chooses, and of what is deployed on "
        f"{len(JUDGE_SEEDS)} others, which a point asked for by its quality had to pass, and so flatter it a little; "
        "\N{PLUS-MINUS SIGN} is the standard error of a mean. Speed is the time of a step "
        "on the machine that calibrated: measured with these graphs, or estimated."
    )
    return section("Precision map", lead, *(_map(each) for each in maps))


def _map(shown: ShownMap) -> Html:
    precision_map = shown.precision_map
    deployed = precision_map.deployed
    sentence = paragraph(
        Html("<b>"),
        precision_map.body,
        Html("</b>"),
        f" along {precision_map.plan}, asked for {precision_map.asked}: ",
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
        "Each point is a choice of what stays float; no other one that was tried is both faster and better. "
        + "Float32 itself, which is equal, is not drawn. " * (len(points) < len(precision_map.frontier))
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
    """The frontier, the fastest first, with the point that is deployed: another may beat it in what is known of both,
    but have missed the bound where it was judged."""
    others = [point for point in precision_map.frontier if point.in_float != precision_map.deployed.in_float]
    return sorted([*others, precision_map.deployed], key=lambda point: point.time)


def _quality(value: float, error: float | None) -> Html:
    return decibel(value) if error is None else join([decibel(value), f" \N{PLUS-MINUS SIGN} {error:.1f}"])


def _search_quality(point: FrontierPoint) -> float:
    """Quality on the seeds of the search, where all points compare."""
    return point.quality if point.searched is None else point.searched


def _seed_source(point: FrontierPoint) -> str:
    return "seeds of the search" if point.standard_error is None else "other seeds"


def _sensitivity(shown: ShownMap) -> Html:
    """The operations that matter most, with what each adds in float; of several range groups the largest gain."""
    precision_map = shown.precision_map
    in_float = {op for ops in precision_map.deployed.in_float for op in ops}
    gains = [max(of_groups) for of_groups in precision_map.gains]
    most = sorted(range(len(gains)), key=lambda op: -gains[op])[:SHOWN]
    rows = [
        [shown.operations[op], "float" if op in in_float else "int8", data(gains[op], f"{gains[op]:.2g} dB")]
        for op in most
    ]
    part = f"the {len(most)} that add most, of {len(gains)}" if len(most) < len(gains) else "all"
    note = f"What an operation in float adds to the finished sample, everything else int8. Operations shown: {part}."
    return join([paragraph(note), table(["operation", "deployed in", "adds"], rows, text_columns=2)])


def _time_source(point: FrontierPoint) -> str:
    """The source of a point's time. Maps of earlier versions have estimates alone."""
    return "measured" if point.time_is_measured else "estimated"


def _counts_text(precision_map: PrecisionMap, point: FrontierPoint) -> str:
    counts = [len(ops) for ops in point.in_float]
    return f"{', '.join(map(str, counts))} of {len(precision_map.operations)} operations" if any(counts) else "none"
