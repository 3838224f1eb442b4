"""A recording of any length, enhanced as one sample: the network runs on windows of frames that overlap.

    python examples/long_audio.py BUNDLE noisy.wav enhanced.wav

The bundle is that of speech.py. enhance.py cuts the sound itself and enhances each piece alone; here the pieces meet
after every step, so that they agree where they overlap.
"""

import sys
import wave

import numpy as np

from fewstep.machine.memory import peak
from fewstep.runs import Tiles, sample_tiles
from fewstep.runtime import UserError, load
from fewstep.runtime.spectrogram import decode, encode, loudness

FRAMES, OVERLAP = 64, 16


def main(bundle: str, noisy_file: str, enhanced_file: str, plan: str = "sgmse:10@linspace") -> None:
    try:
        with wave.open(noisy_file, "rb") as file:
            parameters = file.getparams()
            noisy = np.frombuffer(file.readframes(parameters.nframes), "<i2") / np.float32(32768)
    except (wave.Error, EOFError, ValueError) as error:
        raise UserError(f"{noisy_file} is no WAV file ({error})", "give a recording") from error
    if parameters.nchannels != 1 or parameters.sampwidth != 2:
        raise UserError(f"{noisy_file} is not one channel of 16 bits", "convert it")
    with load(bundle) as sampler:
        sound, scale = sampler.bundle.manifest.spectrogram, loudness(noisy)
        if sound is None:
            raise UserError(f"{bundle} does not sample sound", "give the bundle of speech.py")
        if sound.rate != parameters.framerate:
            raise UserError(f"{noisy_file} has {parameters.framerate} Hz", f"give {sound.rate}, as in training")
        y = encode(sound, noisy / scale, FRAMES)[None]  # [1, 2, bins, frames]
        sizes, tiles = {"frames": FRAMES}, Tiles(OVERLAP)
        compiled = sampler.compile(plan, sizes=sizes)
        x = sample_tiles(sampler, compiled, y.shape[1:], tiles, [0], condition={"y": y}, sizes=sizes)
        enhanced = decode(sound, x[0], len(noisy)) * scale
    with wave.open(enhanced_file, "wb") as file:
        file.setparams(parameters)
        file.writeframes((enhanced * 32768).round().clip(-32768, 32767).astype("<i2").tobytes())
    seconds, most = len(noisy) / sound.rate, peak()
    memory = "its peak is unknown" if most is None else f"{most >> 20} MiB at its peak"
    print(f"{seconds:.2f} s as {y.shape[-1]} frames in windows of {FRAMES}, {memory}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python examples/long_audio.py BUNDLE noisy.wav enhanced.wav [PLAN]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"long_audio: {error}")
