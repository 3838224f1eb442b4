"""What relates the tensors of a recorded call: x, times, conditions, guidance and the scheduler's steps."""
