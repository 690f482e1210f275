"""Data sets that are drawn from a seed and need no download; nothing here reads a user's files."""
