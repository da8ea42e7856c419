"""The embedded default: real models from registry packages, real text, contrast data of our own."""
