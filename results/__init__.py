"""Rows to tables, statistics, plots and a report; pandas, no torch."""
