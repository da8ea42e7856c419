"""From moments to weights: pure tensors, no files."""
