"""Plans that continue from run to run: carried tensors, and positions at different steps."""
