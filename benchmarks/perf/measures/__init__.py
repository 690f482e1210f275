"""What a step is measured by besides its time: memory, and how long saving keeps it waiting."""
