"""The `fewstep` command has one thin verb per library function, generated from that function's options."""
