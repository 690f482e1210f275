"""Any known checkpoint file, read without running it, as a canonical backbone."""
