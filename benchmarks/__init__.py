"""Which checkpoints meet which tasks, where and when."""
