"""Enhance a recording of any length as one sample: the network runs on overlapping windows of frames.

    python docs/examples/long_audio.py BUNDLE noisy.wav enhanced.wav

The bundle is that of speech.py. While enhance.py enhances pieces of the sound separately, here the windows are combined
after every step, so that they agree where they overlap.
"""

import sys

from enhance import read_recording, write_recording

from fewstep.runtime import UserError, load
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.runs import Tiles, sample_tiles
from fewstep.runtime.spectrogram import decode, encode, peak_amplitude

FRAMES, OVERLAP = 64, 16


def main(bundle: str, noisy_file: str, enhanced_file: str, plan: str = "sgmse:10@linspace") -> None:
    noisy, rate = read_recording(noisy_file)
    with load(bundle) as sampler:
        sound, scale = sampler.bundle.manifest.spectrogram, peak_amplitude(noisy)
        if sound is None:
            raise UserError(f"{bundle} does not sample sound", "give the bundle of speech.py")
        if sound.rate != rate:
            raise UserError(f"{noisy_file} is sampled at {rate} Hz", f"resample it to {sound.rate} Hz, as in training")
        y = encode(sound, noisy / scale, FRAMES)[None]  # [1, 2, bins, frames]
        windows, tiles = sampler.with_options(frames=FRAMES), Tiles(OVERLAP)
        x = sample_tiles(windows, plan, y.shape[1:], tiles, [0], condition={"y": y})
        enhanced = decode(sound, x[0], len(noisy)) * scale
    write_recording(enhanced_file, enhanced, rate)
    seconds, most = len(noisy) / sound.rate, peak_bytes()
    memory = f"peak memory {'unknown' if most is None else f'{most >> 20} MiB'}"
    print(f"{seconds:.2f} s as {y.shape[-1]} frames in windows of {FRAMES}, {memory}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: python docs/examples/long_audio.py BUNDLE noisy.wav enhanced.wav [PLAN]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"long_audio: {error}")
