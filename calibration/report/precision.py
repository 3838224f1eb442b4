"""The page's section on precision maps: quality against speed, and where each operation matters."""

from collections.abc import Sequence

from fewstep.calibration.drawing import plots
from fewstep.calibration.drawing.plots import Series
from fewstep.calibration.evaluation.metrics import CEILING
from fewstep.calibration.precision.record import PrecisionMap, Reached, decode
from fewstep.calibration.report.elements import (
    Content,
    Html,
    decibel,
    details,
    figure,
    join,
    paragraph,
    section,
    table,
    times,
)
from fewstep.runtime.bundle import Bundle

SHOWN = 24  # operations in the heat map: those that matter most


def stored_maps(bundle: Bundle) -> tuple[PrecisionMap, ...]:
    """The searches that the bundle's own bodies come from."""
    file = bundle.manifest.precision
    if file is None:
        return ()
    return tuple(each for each in decode(bundle.read(file), file) if each.body in bundle.manifest.bodies)


def precision_section(maps: Sequence[PrecisionMap]) -> Html:
    """Every map with its frontier, the point that is deployed, and its sensitivities."""
    lead = paragraph(
        "What leaving operations in float gives and costs. Quality is measured closed loop on the deployed graphs, on "
        "seeds of its own; speed is the time of a step, added up from operations that were timed one by one on the "
        "machine that calibrated.",
        kind="lead",
    )
    return section("Precision map", lead, *(_map(each) for each in maps))


def _map(found: PrecisionMap) -> Html:
    deployed = found.deployed
    sentence = paragraph(
        Html("<b>"),
        found.body,
        Html("</b>"),
        f", asked for {found.asked}: ",
        decibel(deployed.quality),
        " at ",
        times(found.float_time / deployed.time),
        " the speed of float32; all int8 would be ",
        decibel(found.all_int8),
        " at ",
        times(found.float_time),
        ".",
    )
    points = [point for point in found.frontier if point.quality < CEILING] or [*found.frontier]
    speeds = [found.float_time / point.time for point in points]
    curves = [
        Series("frontier", speeds, [point.quality for point in points], 0),
        Series("deployed", [found.float_time / deployed.time], [deployed.quality], 1),
    ]
    frontier = figure(
        Html(plots.line_plot(curves, "times as fast as float32", "PSNR (dB)")),
        "Each point is a choice of what stays float; no other one that was tried is both faster and better. "
        + "Float32 itself, which is equal, is not drawn. " * (len(points) < len(found.frontier))
        + "fewstep calibrate with --quality or --speed deploys another point, and times no operation again.",
    )
    rows: list[Sequence[Content]] = [
        [_words(found, point), decibel(point.quality), times(found.float_time / point.time)] for point in found.frontier
    ]
    folded = details("The frontier as a table", table(["in float, by range group", "PSNR", "speed"], rows))
    return join([sentence, frontier, folded, _sensitivity(found)])


def _sensitivity(found: PrecisionMap) -> Html:
    """Gains of the operations that matter most, over the range groups; framed: float in what is deployed."""
    most = sorted(range(len(found.operations)), key=lambda op: -max(found.gains[op]))[:SHOWN]
    floats = [[group for group, ops in enumerate(found.deployed.in_float) if op in ops] for op in most]
    drawn = plots.heat_map(
        [found.operations[op] for op in most],
        [found.gains[op] for op in most],
        floats,
        "range group, from noise to clean",
        "dB",
    )
    caption = (
        "What an operation in float adds, in one range group, everything else int8: the darker, the more dB of the "
        f"finished sample, at most {max(map(max, found.gains)):.2g}. Framed cells are in float in what is deployed."
    )
    return figure(Html(drawn), caption)


def _words(found: PrecisionMap, point: Reached) -> str:
    counts = [len(ops) for ops in point.in_float]
    return f"{', '.join(map(str, counts))} of {len(found.operations)} operations" if any(counts) else "none"
