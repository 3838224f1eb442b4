"""Draw samples as images, and measurements as plots."""
