"""The page and the plots that a campaign's results are looked at in; its tables come from `tables`."""
