"""Merge LoRA files into a denoiser's weights."""
