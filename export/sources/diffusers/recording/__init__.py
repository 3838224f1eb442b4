"""Run a pipeline of diffusers to find out how it calls its denoiser. In this way, export supports pipelines that
fewstep does not list."""
