"""One task, from start to receipt. Stages do not know who runs them."""
