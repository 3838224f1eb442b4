"""The speed of bodies and of other contenders, which take turns, and the machine that it was measured on."""
