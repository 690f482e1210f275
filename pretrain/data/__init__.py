"""The data catalog and what all readers share; the formats are in `readers`, the drawn sets in `generated`."""
