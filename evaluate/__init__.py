"""Downstream tasks: what a checkpoint is worth, one file a task."""
