"""Named protocols, a file a task: frozen values with the source of every number. No torch, so planning is quick."""
