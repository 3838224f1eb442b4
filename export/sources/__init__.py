"""Where denoisers come from: shipped with fewstep, or a function in a Python file."""
