"""Run a pipeline of diffusers to find out how it calls its denoiser. So export supports pipelines that are not
listed."""
