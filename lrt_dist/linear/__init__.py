"""Linear algebra in pure torch: moments, maps, vectors, scores; of these only maps know files."""
