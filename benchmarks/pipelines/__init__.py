"""Coverage of the export of pipelines: how many pipeline classes of diffusers export."""
