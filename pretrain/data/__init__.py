"""The data catalog and its readers."""
