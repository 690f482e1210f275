"""Which checkpoints meet which tasks, where and when; the numbers themselves are made in `evaluate`."""
