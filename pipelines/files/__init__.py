"""The files of a diffusers folder: its components, and their weights."""
