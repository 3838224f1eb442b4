"""Find out by running a pipeline of diffusers what it does with its denoiser, instead of listing pipelines."""
