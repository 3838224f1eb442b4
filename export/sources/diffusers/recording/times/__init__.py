"""The times of a recorded pipeline: as those of a flow, and as functions of its scheduler's times."""
