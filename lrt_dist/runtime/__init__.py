"""Who runs a task, and on which machine: this process, or a Ray cluster. Knows no model."""
