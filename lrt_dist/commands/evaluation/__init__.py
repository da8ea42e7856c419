"""Parts of the command `evaluate`; `commands/evaluate.py` has the flow."""
