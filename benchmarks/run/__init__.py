"""One run in its directory: its request and id, its execution and its provenance; it knows of no campaign."""
