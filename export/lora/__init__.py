"""LoRA files, merged into a denoiser's weights."""
