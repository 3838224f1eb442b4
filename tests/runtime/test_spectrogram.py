"""Spectrograms: equal to torch.stft, inverted exactly, compressed as in SGMSE+."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Description, Spectrogram
from fewstep.runtime.spectrogram import (
    decode,
    encode,
    frame_count,
    istft,
    join_pieces,
    peak_amplitude,
    sample_count,
    split_pieces,
    stft,
)
from tests.refusals import refuses

LENGTHS = (1000, 4096, 4099)
SIZES = [Spectrogram(), Spectrogram(n_fft=64, hop=16), Spectrogram(n_fft=101, hop=50)]


def wave(length: int, *batch: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((*batch, length))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("transform", SIZES, ids=lambda each: f"{each.n_fft}-{each.hop}")
def test_it_is_torchs_transform_and_inverse(transform: Spectrogram, length: int) -> None:
    torch = pytest.importorskip("torch")
    window = torch.hann_window(transform.n_fft, periodic=True, dtype=torch.float64)
    given = wave(length, 2)
    expected = torch.stft(
        torch.from_numpy(given), transform.n_fft, transform.hop, window=window, center=True, return_complex=True
    )
    found = stft(transform, given)
    assert found == pytest.approx(expected.numpy(), abs=1e-12)
    changed = found * np.random.default_rng(0).uniform(0.5, 1.5, found.shape)  # no longer the transform of a wave
    for wanted in (length, sample_count(transform, found.shape[-1])):
        back = torch.istft(torch.from_numpy(changed), transform.n_fft, transform.hop, window=window, length=wanted)
        assert istft(transform, changed, wanted) == pytest.approx(back.numpy(), abs=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("transform", SIZES[:2], ids=lambda each: f"{each.n_fft}-{each.hop}")
@pytest.mark.parametrize("multiple", [1, 64])
def test_decode_is_the_inverse_of_encode(transform: Spectrogram, length: int, multiple: int) -> None:
    given = wave(length, 3)
    encoded = encode(transform, given, multiple)
    assert encoded.dtype == np.float32
    assert encoded.shape == (3, 2, transform.bins, frame_count(transform, length, multiple))
    assert encoded.shape[-1] % multiple == 0
    assert decode(transform, encoded, length) == pytest.approx(given, abs=2e-6)


def test_amplitudes_are_compressed_and_angles_kept() -> None:
    transform = Spectrogram()
    c, encoded = stft(transform, wave(4096)), encode(transform, wave(4096))
    compressed = encoded[0] + 1j * encoded[1]
    assert np.abs(compressed) == pytest.approx(0.15 * np.sqrt(np.abs(c)), rel=1e-5)
    assert np.angle(compressed * np.conj(c)) == pytest.approx(np.zeros(c.shape), abs=1e-5)


def test_silence_stays_silence() -> None:
    transform, silence = Spectrogram(), np.zeros(2000)
    assert peak_amplitude(silence) == 1.0 and peak_amplitude(-0.25 * np.ones(3)) == 0.25
    encoded = encode(transform, silence)
    assert not encoded.any() and not decode(transform, encoded, 2000).any()


@pytest.mark.parametrize("length", [100, 1000, 1001, 2345])
@pytest.mark.parametrize("overlap", [0, 1, 200, 500])
def test_pieces_come_together_again(length: int, overlap: int) -> None:
    given = wave(length).astype(np.float32)
    parts = split_pieces(given, 1000, overlap)
    assert parts.shape[1] == 1000
    assert len(parts) == (1 if length <= 1000 else 1 + -(-(length - 1000) // (1000 - overlap)))
    assert join_pieces(parts, length, overlap) == pytest.approx(given, abs=1e-6)


@pytest.mark.parametrize(
    ("transform", "x_shape", "reason"),
    [
        (Spectrogram(hop=256), (2, 256, 64), "hop 256"),
        (Spectrogram(hop=0), (2, 256, 64), "hop 0"),
        (Spectrogram(exponent=0), (2, 256, 64), "exponent 0"),
        (Spectrogram(factor=float("nan")), (2, 256, 64), "factor nan"),
        (Spectrogram(rate=0), (2, 256, 64), "rate 0"),
        (Spectrogram(), (1, 256, 64), r"\[2, 256, frames\]"),
        (Spectrogram(), (2, 257), r"\[2, 256, frames\]"),
    ],
)
def test_a_transform_that_does_not_fit_is_named(transform: Spectrogram, x_shape: tuple[int, ...], reason: str) -> None:
    of = Description("speech", x_shape, (), "score", ScheduleSpec("ou"))
    assert Spectrogram().problem(msgspec.structs.replace(of, x_shape=(2, 256, 64))) is None
    assert re.search(reason, transform.problem(of) or "")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="255 samples") as short:
        encode(Spectrogram(), np.zeros(255))
    assert short.value.fix == "give more than 255"
    with pytest.raises(UserError, match="shape"):
        decode(Spectrogram(), np.zeros((1, 256, 4)), 100)
    with pytest.raises(UserError, match="overlap by 600"):
        split_pieces(np.zeros(5000), 1000, 600)
    with pytest.raises(UserError, match="pieces of 0 samples"):
        split_pieces(np.zeros(5000), 0, 0)
    with pytest.raises(UserError, match="give one channel"):
        split_pieces(np.zeros((2, 5000)), 1000, 0)


@pytest.mark.parametrize("count", [True, 2.5, -1, "3", None])
def test_a_number_of_samples_is_a_whole_number(count: Any) -> None:
    wave = np.zeros(5000)
    spectrogram, pieces = encode(Spectrogram(), wave), split_pieces(wave, 1000, 100)
    calls: list[Callable[[], object]] = [
        lambda: decode(Spectrogram(), spectrogram, count),
        lambda: encode(Spectrogram(), wave, count),
        lambda: frame_count(Spectrogram(), count),
        lambda: sample_count(Spectrogram(), count),
        lambda: split_pieces(wave, count, 0),
        lambda: split_pieces(wave, 1000, count),
        lambda: join_pieces(pieces, count, 100),
        lambda: join_pieces(pieces, 5000, count),
    ]
    for call in calls:
        with pytest.raises(UserError, match=rf"{count!r}|overlap by|pieces of"):
            call()


@pytest.mark.parametrize("wrong", [np.array([True, False] * 500), np.full(1000, np.nan), np.full(1000, 1j), None, "a"])
def test_what_is_no_sound_is_named(wrong: Any) -> None:
    for call in (
        partial(encode, Spectrogram()),
        peak_amplitude,
        partial(split_pieces, length=100, overlap=0),
        partial(join_pieces, samples=1, overlap=0),
    ):
        with pytest.raises(UserError, match="^(a recording|the pieces)[ :]"):
            call(wrong)


def test_pieces_that_do_not_fill_a_wave_are_refused() -> None:
    with refuses("samples 1001", "from 0 to 1000"):
        join_pieces(np.zeros((1, 1000), np.float32), 1001, 0)
    with refuses("the pieces have the shape [0, 1000]"):
        join_pieces(np.zeros((0, 1000), np.float32), 0, 0)
