"""Work that is done by many processes, on this machine or on others, with bitwise the results of one."""
