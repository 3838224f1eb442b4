"""Folders of diffusers as sources: denoisers, and the text encoders and autoencoders beside them."""
