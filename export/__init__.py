"""From a torch module to a verified bundle."""
