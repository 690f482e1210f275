"""Where runs are started: this machine or SLURM, and what that shows; what a run does is in `run`."""
