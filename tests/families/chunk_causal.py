"""A denoiser that carries features from chunk to chunk, as streaming speech and video do."""

NAME = "Chunk-causal, with carried tensors (FILE.py:FUNCTION)"
PLAN = "ddim:2"
SOURCE = "tests/export/networks/carrying_denoiser.py:make"
GUIDANCE = 2.0
