"""Which form of a denoiser is faster, and on what machine that was measured."""
