"""Serve a policy to robots in other processes, by the protocols of openpi and of LeRobot, and by lines of JSON."""
