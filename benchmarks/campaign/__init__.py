"""What a campaign is: spec, plan, cost and state of its runs; nothing here starts a run."""
