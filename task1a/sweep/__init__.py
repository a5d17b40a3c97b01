"""Many runs by one command: the rows of a table times seeds, on this machine or over a cluster."""
