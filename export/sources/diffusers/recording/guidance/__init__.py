"""Guidance in recordings, of forms that several steps show."""
