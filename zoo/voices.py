"""Generated voices and noises: harmonics of a gliding pitch under moving formants, and four kinds of noise."""

import numpy as np
from numpy.typing import NDArray

Waves = NDArray[np.float64]

VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])
WIDTHS = np.array([90.0, 110.0, 170.0])  # bandwidths of the formants, in Hz
STEPS = 8  # steps of the formants between one vowel and the next
HARMONICS = 36


def voices(count: int, samples: int, rate: int, rng: np.random.Generator) -> Waves:
    """Return voices [count, samples] with a standard deviation of about 0.1. Each glides in pitch between 90 and 260 Hz
    and between two vowels, with the loudness of a syllable."""
    t = np.arange(samples) / samples
    start, end = rng.uniform(90, 260, (count, 1)), rng.uniform(0.8, 1.25, (count, 1))
    pitch = start * end**t
    phase = 2 * np.pi * np.cumsum(pitch, axis=1) / rate + rng.uniform(0, 2 * np.pi, (count, 1))
    first, last = (VOWELS[rng.integers(len(VOWELS), size=count)] * rng.uniform(0.9, 1.1, (count, 1)) for _ in range(2))
    share = np.linspace(0, 1, STEPS)[None, :, None]
    formants = (1 - share) * first[:, None] + share * last[:, None]  # [count, STEPS, 3]
    wave = np.zeros((count, samples))
    knots = np.linspace(0, 1, STEPS)
    for number in range(1, HARMONICS + 1):
        middle = number * start * end**knots  # [count, STEPS], Hz
        gains = (1 / (1 + ((middle[:, :, None] - formants) / WIDTHS) ** 2) * [1.0, 0.6, 0.3]).sum(axis=2)
        gains[middle > 0.45 * rate] = 0.0
        gain = np.stack([np.interp(t, knots, each) for each in gains])
        wave += (gain + 0.01) / number**0.5 * np.sin(number * phase)
    wave *= loudness(count, t, rng)
    return 0.1 * wave / np.sqrt((wave**2).mean(axis=1, keepdims=True) + 1e-12)


def loudness(count: int, t: Waves, rng: np.random.Generator) -> Waves:
    """Return the loudness [count, samples]: it rises and falls once, and is nearly silent otherwise."""
    centre, width = rng.uniform(0.2, 0.8, (count, 1)), rng.uniform(0.15, 0.5, (count, 1))
    return 0.02 + np.exp(-(((t - centre) / width) ** 2))


def noises(clean: Waves, rate: int, rng: np.random.Generator) -> Waves:
    """Return noise [count, samples] for each voice: hiss, rumble, hum or clicks, 0 to 12 dB below the voice."""
    count, samples = clean.shape
    white = rng.standard_normal((count, samples))
    spectrum = np.fft.rfft(white, axis=1)
    spectrum /= np.sqrt(1 + np.arange(spectrum.shape[1]))
    rumble = np.fft.irfft(spectrum, samples, axis=1)
    t = np.arange(samples) / rate
    base = rng.uniform(50, 400, (count, 1))
    hum = sum(np.sin(2 * np.pi * k * base * t + rng.uniform(0, 6.3, (count, 1))) / k for k in (1, 2, 3, 5))
    clicks = white * (rng.random((count, samples)) < 0.02)
    kinds = np.stack([white, rumble, hum + 0.1 * white, clicks + 0.1 * white])
    wave = kinds[rng.integers(len(kinds), size=count), np.arange(count)]
    level = 10 ** (-rng.uniform(0, 12, (count, 1)) / 20)
    deviation = np.sqrt((clean**2).mean(axis=1, keepdims=True) / (wave**2).mean(axis=1, keepdims=True))
    return level * deviation * wave
