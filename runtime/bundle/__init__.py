"""A bundle on disk is a manifest and its files; they are checked before any of them is run."""
