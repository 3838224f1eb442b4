"""Sources from diffusers folders: denoisers with their text encoders and autoencoders."""
