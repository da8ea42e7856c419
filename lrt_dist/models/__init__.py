"""The only room that imports transformers: tokens, hollow models, hooks."""
