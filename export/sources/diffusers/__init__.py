"""Folders of diffusers are sources: denoisers with their text encoders and autoencoders."""
