"""Convert configuration files of other libraries to schedules and plans."""
