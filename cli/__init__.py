"""The `fewstep` command: one thin verb per library function, generated from its frozen options dataclass."""
