"""The page's section on distances between sets of samples, from the last `fewstep measure` of the same bodies."""

import logging
from collections.abc import Sequence

import msgspec

from fewstep.measure.bodies import graph_files
from fewstep.measure.results import Distance, Results, decode
from fewstep.report.elements import Content, Html, count, join, paragraph, plain, section, table
from fewstep.report.glossary import lead_paragraph
from fewstep.report.verdict import describe_distance
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")


def read_evaluation(bundle: Bundle) -> Results | None:
    """Return the stored results of `measure`, restricted to the bundle's current bodies. None if none are stored."""
    manifest = bundle.manifest
    if manifest.evaluation is None:
        return None
    try:
        stored = decode(bundle.read(manifest.evaluation))
    except msgspec.DecodeError as error:
        LOG.warning("the evaluation in %s cannot be read (%s): repeat it with fewstep measure", bundle.path, error)
        return None
    graphs = {name: graph_files(body) for name, body in manifest.bodies.items()}
    current = tuple(
        quality for quality in stored.qualities if graphs.get(quality.body) == quality.graphs and quality.distances
    )
    return msgspec.structs.replace(stored, qualities=current) if current else None


def distribution_section(evaluation: Results) -> Html:
    """Return the section on distances between sets of samples, with a table for each set of references."""
    features = evaluation.features
    if features is None or not evaluation.qualities:
        return Html("")
    guidance = "no guidance" if evaluation.guidance is None else f"guidance {evaluation.guidance}"
    references = [distance.reference for distance in evaluation.qualities[0].distances]
    parts = [
        lead_paragraph(
            f"FD({features.name}) is the Fréchet distance between the features of two sets of samples, here along "
            f"{evaluation.plan}, {guidance}. Two finite sets of float32 samples also have a distance above 0: the "
            "noise floor. A difference between int8 and float32 within the noise floor may be chance. These distances "
            "cannot be compared with those of other feature extractors, other numbers of samples, or papers."
        )
    ]
    for index, reference in enumerate(references):
        parts.append(_distance_table(evaluation, index, reference))
    first = evaluation.qualities[0].distances[0]
    parts.append(
        paragraph(
            "Noise floor: ",
            plain(first.noise_floor),
            f"; theory expects {features.bias:.3g} for two sets of {first.samples} independent samples of a "
            f"{features.size}-dimensional Gaussian, and less if the samples cycle through classes. Brackets: "
            "95\u00a0% bootstrap interval over the paired seeds. Measured before this report, by: "
            f"{evaluation.command}",
            kind="note",
        )
    )
    return section("Distribution", *parts)


def _distance_table(evaluation: Results, index: int, reference: str) -> Html:
    """Return the table of distances of each body from one set of references, followed by a sentence about each row."""
    distances = [(quality.body, quality.distances[index]) for quality in evaluation.qualities]
    rows: list[Sequence[Content]] = [["float32", *_cells(distances[0][1], is_float=True)]]
    rows += [[body, *_cells(distance, is_float=False)] for body, distance in distances]
    head = [f"against {reference}", "FD", "int8 minus float32", "samples", "references"]
    sentences = [
        paragraph(Html("<b>"), body, Html("</b>: "), f"{describe_distance(distance)}.") for body, distance in distances
    ]
    return join([table(head, rows), *sentences])


def _cells(distance: Distance, is_float: bool) -> list[Content]:
    sizes = [count(distance.samples), count(distance.references)]
    if is_float:
        return [plain(distance.frechet_float), "", *sizes]
    interval: list[Content] = [plain(distance.difference), " [", plain(distance.low), ", ", plain(distance.high), "]"]
    return [plain(distance.frechet), join(interval), *sizes]
