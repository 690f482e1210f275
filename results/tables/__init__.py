"""Definitions, statistics and tables in every format; plots and the page are in `report`."""
