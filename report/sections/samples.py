"""The sample images of the page: the same seeds sampled by every body, and the samples that int8 changed most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.report.drawing import pictures
from fewstep.report.elements import (
    Content,
    Html,
    details,
    figure,
    join,
    paragraph,
    picture,
    plain,
    section,
)

COLUMNS = 10
SCALE_TO = 96  # pixels to which small samples are enlarged by a whole factor, so that browsers do not blur them

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Samples:
    """Samples [N, *x_shape] to be shown: index i has seed i, and `labels[i]` describes its conditions.

    teacher: the teacher's samples; N is 0 for a distilled denoiser. bodies: by body name, the body's samples and those
        of float32 along the body's plan. reason: why they cannot be shown; None if they are pictures.
    """

    teacher: Array
    reference: Array
    bodies: Mapping[str, tuple[Array, Array]]
    labels: Sequence[str]
    reason: str | None = None


def samples_section(samples: Samples, plan: str, teacher: str | None) -> Html:
    """Return the section with rows of sample images, one row per body. If samples are not images, it contains only a
    sentence that says so."""
    try:
        pictures.draw_grid(samples.reference[:1], columns=1)
        reason = samples.reason
    except UserError as error:
        reason = samples.reason or error.what
    if reason is not None:
        return section("Samples", paragraph(f"Not shown: {reason}."))
    has_teacher = len(samples.teacher) > 0
    shown = list(range(min(COLUMNS, len(samples.teacher) if has_teacher else len(samples.reference))))
    strips = [
        _strip("", _labels([samples.labels[i] for i in shown])),
        *(
            [_strip(f"float32 with many steps (teacher), {teacher}", _row(samples.teacher[shown]))]
            if has_teacher
            else []
        ),
        _strip(f"float32, {plan}", _row(samples.reference[shown])),
    ]
    for name, (images, _) in samples.bodies.items():
        here = [i for i in shown if i < len(images)]
        strips.append(_strip(f"{name}, {plan}", _row(images[here])))
    caption = f"Seeds 0 to {shown[-1]}, one per column, held out from calibration and not selected."
    parts = [figure(_stack(strips), caption)]
    parts += [_worst_samples(name, plan, *both) for name, both in samples.bodies.items()]
    return section("Samples", *parts)


def _worst_samples(name: str, plan: str, images: Array, reference: Array) -> Html:
    """Return the seeds with the lowest PSNR: float32, int8 and the amplified difference."""
    reference = reference[: len(images)]
    quality = psnr(images, reference)
    worst = np.argsort(quality)[:COLUMNS]
    gain = _gain(images[worst] - reference[worst])
    strips = [
        _strip(
            "seed, and its PSNR in dB",
            _labels([join([str(i), Html("<br>"), plain(float(quality[i]), 1)]) for i in worst]),
        ),
        _strip(f"float32, {plan}", _row(reference[worst])),
        _strip(f"{name}, {plan}", _row(images[worst])),
        _strip(f"difference × {gain}", _row(pictures.amplify_difference(images[worst], reference[worst], gain))),
    ]
    caption = f"{name}: the {len(worst)} of {len(images)} seeds with the lowest PSNR, worst first. Grey: no difference."
    shown = figure(_stack(strips), caption)
    everything = pictures.amplify_difference(images, reference, gain)
    grid = picture(
        pictures.encode_png(pictures.draw_grid(everything, columns=32)), f"differences of {name} from float32"
    )
    folded = details(
        f"All {len(images)} differences", figure(grid, f"Difference × {gain}, 32 seeds per row, in order of seeds.")
    )
    return join([shown, folded])


def _gain(errors: Array) -> int:
    """Return the power of two that scales the 99th percentile of absolute errors to about full contrast."""
    large = float(np.percentile(np.abs(errors), 99))
    return 1 << min(max(floor(-log2(large)), 0), 10) if large > 0 else 1


def _row(images: Array) -> Html:
    """Return a row of sample images, one per column. A column shows the same seed in all rows."""
    scale = max(1, SCALE_TO // images.shape[-1])
    cells = [picture(pictures.encode_png(pictures.draw_grid(image[None], 1, scale)), "a sample") for image in images]
    return Html(f'<div class="columns">{join(cells).markup}</div>')


def _labels(texts: Sequence[Content]) -> Html:
    cells = join(join([Html("<span>"), text, Html("</span>")]) for text in texts)
    return Html(f'<div class="columns">{cells.markup}</div>')


def _strip(name: str, content: Html) -> Html:
    return join([Html("<div>"), name, Html("</div><div>"), content, Html("</div>")])


def _stack(strips: Sequence[Html]) -> Html:
    return Html(f'<div class="strip">{join(strips).markup}</div>')
