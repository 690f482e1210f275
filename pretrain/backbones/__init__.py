"""What a backbone is, every family of them, and the file that hands one on; no head and no foreign checkpoint."""
