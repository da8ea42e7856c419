"""Pure linear algebra, no I/O: moments, maps, vectors, scores."""
