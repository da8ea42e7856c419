"""The only package that imports transformers: sources, tokenizers, partial models, injection."""
