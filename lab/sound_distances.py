"""Compare sampled sound with held-out recordings: `python -m lab.sound_distances BUNDLE --data DIR [--plan dpmpp_2m]`.

BUNDLE is a calibrated export of zoo/sound. The distance of two sets of spectrograms is the root of the Frechet distance
of their log band energies, divided by the number of these: a difference in dB. A feature vector has the energies of 20
bands, evenly spaced in mel, in two frames that are 32 ms apart. The rows "recordings" and "noise" are the distances of
other recordings, from training, and of Gaussian noise with the energy of the recordings. Errors are of sets of samples
drawn with replacement.
"""

from math import sqrt
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.markdown import table
from fewstep.measure.distances.frechet import fit_gaussian, frechet_distance
from fewstep.runtime import Sampler, load
from fewstep.runtime.arrays import Float32
from lab.train import recipe_of

BANDS, APART = 20, 2  # number of bands; frames between the two of a feature vector
FLOOR = 1e-4  # energy below which a band counts as silent: that of the codec's noise is 1e-5
RESAMPLES = 20
AT_ONCE = 32
STEPS = (1, 2, 4, 8, 20, 50)

Features = NDArray[np.float64]  # [samples, vectors of a sample, 2 * BANDS], dB


def band_energies(x: Float32) -> Features:
    """Return the features of spectrograms [N, 2, bins, frames] whose amplitudes are compressed as the data's."""
    sound = recipe_of("zoo/sound").SPEC.spectrogram
    amplitude = np.hypot(x[:, 0], x[:, 1]).astype(np.float64) / sound.factor
    power = amplitude ** (2 / sound.exponent)  # |c|^2, [N, bins, frames]
    mels = np.linspace(0, np.log1p(8000 / 700), BANDS + 1)
    edges = np.round(700 * np.expm1(mels) / 8000 * power.shape[1]).astype(int)
    sums = np.stack(
        [power[:, low : max(high, low + 1)].sum(axis=1) for low, high in zip(edges, edges[1:], strict=False)], axis=2
    )
    levels = 10 * np.log10(sums + FLOOR)
    return np.concatenate([levels[:, :-APART], levels[:, APART:]], axis=2)


def distance(a: Features, b: Features) -> float:
    """Return the distance of two sets in dB, a root mean square over the dimensions."""
    first, second = (fit_gaussian(each.reshape(-1, each.shape[2])) for each in (a, b))
    return sqrt(frechet_distance(first, second) / a.shape[2])


def describe_distance(features: Features, held_out: Features) -> str:
    """Return the distance to the held-out recordings with its standard error."""
    rng, count = np.random.default_rng(0), len(features)
    drawn = [distance(features[rng.integers(count, size=count)], held_out) for _ in range(RESAMPLES)]
    return f"{distance(features, held_out):.2f} ± {np.std(drawn, ddof=1):.2f}"


def sample(sampler: Sampler, plan: str, count: int, guidance: float) -> Float32:
    """Return spectrograms of all languages in turns."""
    parts = []
    for start in range(0, count, AT_ONCE):
        seeds = range(start, min(start + AT_ONCE, count))
        language = np.array([seed % 3 for seed in seeds])
        parts.append(sampler.sample(plan, seeds, {"language": language}, guidance))
    return np.concatenate(parts)


def psnr(a: Float32, b: Float32) -> str:
    """Return the mean and the 5th percentile, over samples, of the ratio of the signal b to the error of a, in dB."""
    axes = (1, 2, 3)
    ratios = 10 * np.log10(np.square(b).mean(axis=axes) / np.square(a - b).mean(axis=axes))
    return f"{ratios.mean():.1f} / {np.percentile(ratios, 5):.1f}"


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, help="the folder of the recordings (default: that of Debian)")
    parser.add_argument("--plan", default="dpmpp_2m", help="the solver (default %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="weight of guidance (default %(default)s: none)")
    parser.add_argument("--samples", type=options.positive, default=192, help="of each plan (default %(default)s)")
    parser.add_argument("--steps", type=options.positive, nargs="+", default=STEPS)
    given = parser.parse_args()
    with options.refusing(parser):
        data = recipe_of("zoo/sound").DATA
        test, train = (data.open(given.data, split) for split in ("test", "train"))
        held_out, other = (
            draw(4 * given.samples, torch.Generator().manual_seed(0)).x0.numpy() for draw in (test, train)
        )
        bodies = {precision: load(given.bundle, precision=precision) for precision in ("float32", "int8")}
    known = band_energies(held_out)
    noise = np.random.default_rng(0).normal(0, held_out.std(), (given.samples, *held_out.shape[1:]))
    rows = [
        ("recordings", describe_distance(band_energies(other[: given.samples]), known), "", ""),
        ("noise", describe_distance(band_energies(noise.astype(np.float32)), known), "", ""),
    ]
    for steps in given.steps:
        made = {
            each: sample(body, f"{given.plan}:{steps}", given.samples, given.guidance) for each, body in bodies.items()
        }
        cells = (describe_distance(band_energies(x), known) for x in made.values())
        rows.append((f"`{given.plan}:{steps}`", *cells, psnr(made["int8"], made["float32"])))
        print(rows[-1], flush=True)
    print(table(("samples", "float32, dB", "int8, dB", "int8 to float32, mean / 5 % (dB)"), rows))


if __name__ == "__main__":
    main()
