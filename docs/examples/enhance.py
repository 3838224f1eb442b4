"""Enhance a noisy recording of any length, with numpy and an inference engine, and without torch.

    python docs/examples/enhance.py BUNDLE noisy.wav enhanced.wav

The bundle is that of speech.py. It defines how sound becomes a spectrogram, and how many frames the network takes. A
longer recording is cut into overlapping pieces, which are enhanced a few at a time and joined again.
"""

import sys
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime import UserError, load
from fewstep.runtime.spectrogram import (
    decode,
    encode,
    frame_count,
    join_pieces,
    peak_amplitude,
    sample_count,
    split_pieces,
)

BATCH = 4  # number of pieces per call


def read_recording(path: str) -> tuple[NDArray[np.float32], int]:
    """Return the samples of a recording, from -1 to 1, and their number per second."""
    try:
        with wave.open(path, "rb") as file:
            parameters = file.getparams()
            recording = np.frombuffer(file.readframes(parameters.nframes), "<i2") / np.float32(32768)
    except (wave.Error, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a WAV file ({error})", "give a recording") from error
    if parameters.nchannels != 1 or parameters.sampwidth != 2:
        raise UserError(f"{path} does not have one channel of 16 bits", "convert it to 16-bit mono")
    return recording, parameters.framerate


def write_recording(path: str, recording: NDArray[np.float32], rate: int) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((recording * 32768).round().clip(-32768, 32767).astype("<i2").tobytes())


def main(bundle: str, noisy_file: str, enhanced_file: str, plan: str = "sgmse:10@linspace") -> None:
    noisy, rate = read_recording(noisy_file)
    with load(bundle) as loaded:
        sound, sizes = loaded.bundle.manifest.spectrogram, loaded.bundle.manifest.sizes
        if sound is None or not sizes:
            raise UserError(f"{bundle} does not sample sound of variable length", "give the bundle of speech.py")
        if sound.rate != rate:
            raise UserError(f"{noisy_file} is sampled at {rate} Hz", f"resample it to {sound.rate} Hz, as in training")
        (free,) = sizes
        count = max(free.low, min(frame_count(sound, len(noisy) + sound.hop - 1, free.multiple), free.high))
        length, sampler = sample_count(sound, count), loaded.with_options(frames=count)
        compiled = sampler.compile(plan)
        overlap, scale = length // 8, peak_amplitude(noisy)
        parts, enhanced = split_pieces(noisy / scale, length, overlap), []
        for start in range(0, len(parts), BATCH):
            y, seeds = encode(sound, parts[start : start + BATCH]), range(start, min(start + BATCH, len(parts)))
            x = sampler.sample(compiled, seeds, condition={"y": y})
            enhanced.extend(decode(sound, x, length))
    result = join_pieces(enhanced, len(noisy), overlap) * scale
    write_recording(enhanced_file, result, rate)
    print(f"{Path(enhanced_file).name}: {len(result) / sound.rate:.2f} s in {len(parts)} pieces of {count} frames")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python docs/examples/enhance.py BUNDLE noisy.wav enhanced.wav [PLAN]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"enhance: {error}")
