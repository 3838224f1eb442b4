"""The `fewstep` command: one thin verb per library function, generated from that function's options."""
