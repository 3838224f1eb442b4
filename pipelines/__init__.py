"""Pipelines of diffusers as sources of export: recorded from their own call."""
