"""Choose the plan, the body and the engine for a machine and a budget."""
