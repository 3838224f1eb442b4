"""The other networks of a denoiser: text encoders with their tokenizers, and an autoencoder."""
