"""Text encoders and autoencoders of a pipeline."""
