"""A bundle on disk: its manifest, and what must hold before any of it is run."""
