"""What a worker does with a task, from start to receipt. Tasks do not know who runs them."""
