"""Kinds of denoiser, a file each; `runtime.bundle.manifest` lists them."""
