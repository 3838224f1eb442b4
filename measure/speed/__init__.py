"""Speed times the forms of a denoiser against each other, and records the machine that was measured."""
