"""What a user takes home: maps and steering vectors, usable without a cluster or config."""
