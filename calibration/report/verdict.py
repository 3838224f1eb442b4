"""What a reader must not overlook: int8 bodies that cost too much, or win nothing."""

from collections.abc import Iterator

from fewstep.calibration.results import Results

LEAST_PSNR = 25.0  # dB to float32: below it the difference can be seen in most images


def warnings(results: Results) -> Iterator[str]:
    """One sentence for each; none where int8 is near float32 and faster."""
    for quality in results.qualities:
        end = quality.against_float
        if end.mean < LEAST_PSNR:
            yield f"{quality.body} is only {end.mean:.1f} dB from float32: look at the samples before deploying it."
    for race in results.races:
        for timing in race.timings:
            if timing.ratio < 1:
                yield f"{timing.name} is slower than float32 here ({timing.ratio:.2f}x, {race.batch} rows)."
