"""Complex spectrograms of sound with compressed amplitudes, as in SGMSE+, and their inverse, with numpy only.

Richter, Welker, Lemercier, Lay, Gerkmann 2023 (arXiv 2208.05830), section IV: x is beta |c|^alpha e^(i angle(c)) for
coefficients c of a short-time Fourier transform. Its real and imaginary parts are two channels. The transform equals
`torch.stft` and `torch.istft` with a periodic Hann window, centred frames and reflected ends. A bundle's manifest has
its parameters (`Spectrogram`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.argument_checks import as_integer, check_integer
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, UnusableValue, as_numbers
from fewstep.runtime.kinds.sound import Spectrogram
from fewstep.runtime.windows import blend_weights

Complex = NDArray[np.complex128]
RECORDING = "a recording"
QUIET = 1e-8  # a recording whose peak amplitude is at most this counts as silence


def frame_count(transform: Spectrogram, samples: int, multiple: int = 1) -> int:
    """Return the number of frames that `encode` returns for `samples` samples."""
    samples, multiple = check_integer("samples", samples, 0), check_integer("multiple", multiple, 1)
    return -(-(samples // transform.hop + 1) // multiple) * multiple


def sample_count(transform: Spectrogram, frames: int) -> int:
    """Return the number of samples in `frames` frames."""
    return (check_integer("frames", frames, 1) - 1) * transform.hop


def stft(transform: Spectrogram, wave: ArrayLike) -> Complex:
    """Return the short-time Fourier transform [..., bins, frames] of a wave [..., samples].

    Raises UserError if there are too few samples to reflect.
    """
    half = transform.n_fft // 2
    signal = _as_sound(wave, RECORDING, f"give more than {half} samples")
    if signal.ndim == 0 or signal.shape[-1] <= half:
        raise UserError(f"a recording has only {signal.size} samples", f"give more than {half}")
    ends = [(0, 0)] * (signal.ndim - 1) + [(half, half)]
    padded = np.pad(signal, ends, mode="reflect")
    parts = np.lib.stride_tricks.sliding_window_view(padded, transform.n_fft, axis=-1)[..., :: transform.hop, :]
    return np.swapaxes(np.fft.rfft(parts * _window(transform), axis=-1), -1, -2)


def istft(transform: Spectrogram, coefficients: Complex, samples: int) -> NDArray[np.float64]:
    """Return the inverse transform [..., samples] of coefficients [..., bins, frames], by weighted overlap-add.

    It returns the wave whose frames are nearest to the given ones. Samples after the last frame are 0.
    """
    window, half = _window(transform), transform.n_fft // 2
    samples = check_integer("samples", samples, 0)
    parts = np.fft.irfft(np.swapaxes(coefficients, -1, -2), transform.n_fft, axis=-1) * window
    count = parts.shape[-2]
    wave = np.zeros((*parts.shape[:-2], transform.n_fft + transform.hop * (count - 1)))
    weight = np.zeros(wave.shape[-1])
    for frame in range(count):
        place = slice(frame * transform.hop, frame * transform.hop + transform.n_fft)
        wave[..., place] += parts[..., frame, :]
        weight[place] += window**2
    end = half + samples
    inside = wave[..., half:end] / np.maximum(weight[half:end], 1e-11)
    return np.pad(inside, [(0, 0)] * (inside.ndim - 1) + [(0, samples - inside.shape[-1])])


def encode(transform: Spectrogram, wave: ArrayLike, multiple: int = 1) -> Float32:
    """Encode a wave [..., samples] as a compressed spectrogram [..., 2, bins, frames].

    Frames of zeros at the end pad their number to a multiple of `multiple`, because U-Nets halve it several times.
    """
    c, multiple = stft(transform, wave), check_integer("multiple", multiple, 1)
    c = np.pad(c, [(0, 0)] * (c.ndim - 1) + [(0, -c.shape[-1] % multiple)])
    compressed = transform.factor * _raise_amplitude(c, transform.exponent)
    return np.stack([compressed.real, compressed.imag], axis=-3).astype(np.float32)


def decode(transform: Spectrogram, spectrogram: ArrayLike, samples: int) -> Float32:
    """Decode a compressed spectrogram [..., 2, bins, frames] to a wave [..., samples], the inverse of `encode`.

    The padded frames at the end are dropped. They overlap with the last samples, but contain nothing of them.
    """
    fix = f"give [..., 2, {transform.bins}, frames]"
    parts, samples = _as_sound(spectrogram, "a spectrogram", fix), check_integer("samples", samples, 0)
    if parts.ndim < 3 or parts.shape[-3:-1] != (2, transform.bins):
        raise UserError(f"a spectrogram has the shape {list(parts.shape)}", fix)
    parts = parts[..., : samples // transform.hop + 1] / transform.factor
    c = parts[..., 0, :, :] + 1j * parts[..., 1, :, :]
    return istft(transform, _raise_amplitude(c, 1 / transform.exponent), samples).astype(np.float32)


def _as_sound(value: ArrayLike, what: str, fix: str) -> NDArray[np.float64]:
    """Convert a value to finite float64. Raises UserError for anything else, booleans included."""
    numbers = as_numbers(value, what, fix)
    if numbers.dtype == np.bool_:
        raise UserError(f"{what}: truth values are no sound", fix)
    array: NDArray[np.float64] = as_numbers(numbers, what, fix, np.float64)
    if not np.isfinite(array).all():
        raise UnusableValue(f"{what}: it has a number that is not finite", fix)
    return array


def _check_overlap(length: int, overlap: int) -> tuple[int, int]:
    """Return both as integers. Raises UserError unless pieces of `length` samples can overlap by `overlap`."""
    whole, shared = as_integer(length), as_integer(overlap)
    if whole is None or shared is None or whole < 1 or not 0 <= 2 * shared <= whole:
        what = f"pieces of {length} samples cannot overlap by {overlap}"
        raise UserError(what, "give a length of at least 1, and an overlap of at most half of it")
    return whole, shared


def _window(transform: Spectrogram) -> NDArray[np.float64]:
    """Return the periodic Hann window [n_fft]."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(transform.n_fft) / transform.n_fft))


def _raise_amplitude(c: Complex, exponent: float) -> Complex:
    """Return |c|^exponent with the angle of c; 0 stays 0."""
    amplitude = np.abs(c)
    return c * np.where(amplitude > 0, amplitude, 1.0) ** (exponent - 1)


def peak_amplitude(wave: ArrayLike) -> float:
    """Return the largest amplitude of a wave, 1 for silence.

    Divide a noisy recording by it before `encode`, and multiply the result of `decode` by it.
    """
    largest = float(np.max(np.abs(_as_sound(wave, RECORDING, "give finite numbers")), initial=0.0))
    return largest if largest > QUIET else 1.0


def split_pieces(wave: ArrayLike, length: int, overlap: int) -> Float32:
    """Split a wave [samples] into pieces [N, length].

    Each piece begins `overlap` samples before the end of the previous one. Zeros fill the last piece.
    """
    fix = "give one channel, [samples]"
    signal = _as_sound(wave, RECORDING, fix).astype(np.float32)
    if signal.ndim != 1:
        raise UserError(f"a recording has the shape {list(signal.shape)}", fix)
    length, overlap = _check_overlap(length, overlap)
    step = length - overlap
    count = max(1, -(-(len(signal) - overlap) // step))
    filled = np.pad(signal, (0, overlap + count * step - len(signal)))
    return np.stack([filled[start : start + length] for start in range(0, count * step, step)])


def join_pieces(parts: Sequence[Float32] | Float32, samples: int, overlap: int) -> Float32:
    """Join the pieces of `split_pieces` to a wave [samples], with a linear cross-fade where two overlap."""
    fix = "give the pieces of split_pieces, [N, length]"
    pieces = _as_sound(parts, "the pieces", fix)
    if pieces.ndim != 2 or not pieces.size:
        raise UserError(f"the pieces have the shape {list(pieces.shape)}", fix)
    length, overlap = _check_overlap(pieces.shape[1], overlap)
    step = length - overlap
    wave = np.zeros(step * len(pieces) + overlap)
    samples = check_integer("samples", samples, 0, len(wave))
    for start, part in zip(range(0, step * len(pieces), step), pieces, strict=True):
        place = (slice(start, start + length),)
        wave[place] += part * blend_weights(place, wave.shape, 0, overlap)
    return wave[:samples].astype(np.float32)
