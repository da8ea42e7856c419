"""The embedded default: real models from registry packages, real text, our own contrast data."""
