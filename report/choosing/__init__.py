"""Choosing finds the plan, the body and the engine that suit a machine and a budget."""
