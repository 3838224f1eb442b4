"""Bundles on disk: a manifest and its files, which are checked before any of them runs."""
