"""Text in, row index out."""
