"""LoRA files are merged here into a denoiser's weights."""
