"""Downstream tasks, one file each: what a checkpoint is worth; their machinery is in the folders."""
