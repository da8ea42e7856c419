"""Who runs a task, and where: this process, or a Ray cluster. Knows no model and no store."""
