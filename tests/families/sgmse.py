"""Speech enhancement on complex spectrograms (SGMSE+, Richter et al. 2023): the network of the example, on few bins."""

from pathlib import Path

NAME = "SGMSE+ (complex spectrograms)"
PLAN = "sgmse:2@linspace"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SOURCE = """
import runpy

from fewstep.export import Spectrogram

def make():
    example = runpy.run_path({example!r})
    return example["make"]((2, 16, 16), Spectrogram(n_fft=30, hop=8))
"""


def make(folder: Path) -> str:
    file = folder / "sgmse.py"
    file.write_text(SOURCE.format(example=str(EXAMPLES / "speech.py")))
    return f"{file}:make"
