"""Facts of this machine: processor, GPUs, memory, installed packages. It imports no other package of fewstep."""
