"""The ground floor of all rooms: errors, files, settings, progress, signals, ranks, curves; nothing of the method."""
