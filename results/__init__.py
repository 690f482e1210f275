"""Rows to tables, statistics, plots and a report, with pandas and without torch; nothing is measured here."""
