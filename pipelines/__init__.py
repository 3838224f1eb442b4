"""Pipelines of diffusers as sources of export: read from configs, or recorded from their own call."""
