"""Features of a frozen backbone and what is fitted on them; what trains through the images is in `trained`."""
