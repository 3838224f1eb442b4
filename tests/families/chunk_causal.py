"""A denoiser that carries features from chunk to chunk, as streaming speech and video do."""

from pathlib import Path

NAME = "Chunk-causal, with carried tensors (FILE.py:FUNCTION)"
PLAN = "ddim:2"
GUIDANCE = 2.0


def make(folder: Path) -> str:
    code = "from tests.export.networks.carrying import Causal, spec\n\n\ndef make():\n    return Causal(), spec()\n"
    (folder / "causal.py").write_text(code)
    return f"{folder / 'causal.py'}:make"
