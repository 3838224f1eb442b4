"""`fewstep run`: its options, its request, sampling in batches, and its files."""
