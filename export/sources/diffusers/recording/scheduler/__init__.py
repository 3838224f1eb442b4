"""The scheduler of a recorded pipeline: its rules, or its steps as they were recorded."""
