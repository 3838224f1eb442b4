"""The page's section on finished samples: PSNR and SSIM against each reference, and statistics that a mean hides."""

from collections.abc import Sequence

from fewstep.measure.distances.drift import BANDS
from fewstep.measure.results import Quality, Results
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.rollouts.metrics import WINDOW
from fewstep.measure.rollouts.size_quality import name_sizes
from fewstep.measure.teacher import NO_TEACHER
from fewstep.report.drawing import plots
from fewstep.report.drawing.plots import Series
from fewstep.report.elements import (
    Content,
    Html,
    count,
    decibel,
    details,
    figure,
    paragraph,
    percent,
    plain,
    section,
    table,
)
from fewstep.report.glossary import lead_paragraph, link_terms

NONE = "\N{EN DASH}"
NO_SSIM = f"No SSIM: it compares images of at least {WINDOW} pixels a side."
NOT_JUDGED = "not judged"
HEAD = ["mean", "5th percentile", "worst", "std. error", "signal", "another seed", "SSIM", "5th percentile", "seeds"]


def quality_section(results: Results, is_image: bool = True) -> Html:
    """Return the section on finished samples, with a table for each reference. A note explains a missing SSIM."""
    against_float = table(
        ["int8 against float32, same plan", "computed by", *HEAD],
        [[q.body, q.computed_by, *_cells(q.against_float)] for q in results.qualities],
        text_columns=2,
    )
    ends = [("float32", results.float_against_teacher), *((q.body, q.against_teacher) for q in results.qualities)]
    known = [(name, end) for name, end in ends if end is not None]
    has_ssim = any(quality.against_float.ssim is not None for quality in results.qualities)
    rows: list[Sequence[Content]] = [[f"{name}, {results.plan}", *_cells(end)] for name, end in known]
    groups = [(quality.body, quality.against_float.values) for quality in results.qualities]
    distribution = figure(
        Html(plots.histogram(groups, "PSNR against float32 (dB)")), "How the seeds are distributed: one PSNR each."
    )
    return section(
        "Quality of finished samples",
        lead_paragraph(
            "PSNR of finished samples: peak 2, in model range, before clamping, per image, then averaged. "
            "Signal is the variance of the references over the error, which does not depend on the range of values. "
            "Another seed is the PSNR of one reference against the next, as for unrelated samples. "
            "SSIM compares structure in windows of 11 pixels; 1 is equality. "
            "The first table shows the loss by quantization. The second table, if there is a teacher, shows the loss "
            "by few steps, without and with int8. Figures against the two references cannot be compared."
        ),
        against_float,
        *_table_by_size(results.qualities),
        *([] if has_ssim or not is_image else [paragraph(NO_SSIM, kind="note")]),
        distribution,
        table([link_terms(f"against the float32 teacher, {results.teacher}"), *HEAD], rows)
        if known
        else paragraph(f"The denoiser {NO_TEACHER}. The second table is left out."),
        *(paragraph(line) for call in results.calls for line in call.networks),
        *(paragraph(note, kind="note") for note in teacher_notes(results)),
        *_statistics(results.qualities),
    )


def _table_by_size(qualities: Sequence[Quality]) -> list[Html]:
    """Return the table of qualities at each size; nothing if samples have one size."""
    rows: list[Sequence[Content]] = [
        [
            f"{quality.body}, {name_sizes(of_size)}",
            NOT_JUDGED if of_size.psnr is None else decibel(of_size.psnr),
            NONE if of_size.worst is None else decibel(of_size.worst),
            NONE if of_size.worst_seed is None else count(of_size.worst_seed),
            count(of_size.seeds),
        ]
        for quality in qualities
        for of_size in quality.by_size
    ]
    return [table(["by size, against float32", "mean", "worst", "worst seed", "seeds"], rows)] if rows else []


def teacher_notes(results: Results) -> list[str]:
    """Return sentences on how far figures against the teacher can be trusted."""
    check, further = results.teacher_check, results.further_teacher
    notes = [] if check is None else [str(check)]
    if further is not None:
        notes.append(f"{further[0].upper()}{further[1:]}: figures against this teacher say nothing about quality.")
    return notes


def _statistics(qualities: Sequence[Quality]) -> list[Html]:
    """Return the moments and the spectrum of int8 samples, compared with float32 samples."""
    drifts = [(q.body, q.against_float.drift) for q in qualities if q.against_float.drift is not None]
    rows: list[Sequence[Content]] = [
        [
            body,
            plain(drift.mean, 4),
            percent(drift.energy),
            percent(drift.detail),
            percent(drift.saturation, 2),
        ]
        for body, drift in drifts
    ]
    head = ["statistics of int8 against float32", "shift of the mean", "energy", "detail", "saturation"]
    parts = [
        table(head, rows),
        paragraph(
            "Energy is the ratio of variances. Detail is the ratio of energies above half the Nyquist frequency; below "
            "100\u00a0% int8 blurs. Saturation is the share of values outside model range, int8 minus float32.",
            kind="note",
        ),
    ]
    channels: list[Sequence[Content]] = [
        [f"{body}, channel {number}", plain(channel.mean, 4), percent(channel.std)]
        for body, drift in drifts
        for number, channel in enumerate(drift.channels)
    ]
    if len(channels) > len(qualities):
        parts.append(details("Channel by channel", table(["", "shift of the mean", "standard deviation"], channels)))
    bands = [(number + 0.5) / BANDS for number in range(BANDS)]
    curves = [
        Series(body, bands, [100 * ratio for ratio in drift.spectrum], index)
        for index, (body, drift) in enumerate(drifts)
        if drift.spectrum
    ]
    if curves:
        drawn = plots.line_plot(curves, "frequency, 1 is Nyquist: from coarse to fine", "energy, % of float32")
        caption = "Frequencies at which int8 loses energy (below 100\u00a0%: blur) or adds energy (above: noise)."
        parts.append(figure(Html(drawn), caption))
    return parts


def _cells(end: EndQuality) -> list[Content]:
    figures = [decibel(end.mean), decibel(end.p5), decibel(end.worst), decibel(end.standard_error)]
    similar: list[Content] = [NONE, NONE] if end.ssim is None else [plain(end.ssim.mean, 4), plain(end.ssim.p5, 4)]
    scale: list[Content] = [NONE if decibels is None else decibel(decibels) for decibels in (end.snr, end.unrelated)]
    return [*figures, *scale, *similar, count(end.seeds)]
