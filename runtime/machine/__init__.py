"""Machine reads the facts of this machine: processor, GPUs, memory, installed packages. It imports no other room."""
