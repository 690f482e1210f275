"""Finished runs and published numbers as rows, found by their fields; what is made of rows is elsewhere."""
