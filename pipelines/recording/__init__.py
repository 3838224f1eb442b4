"""A pipeline's own call, with stand-ins for its networks: what they and the scheduler receive and return."""
