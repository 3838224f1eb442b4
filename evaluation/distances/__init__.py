"""How far a body's samples are from the float32 body's: one by one, and as a distribution."""
