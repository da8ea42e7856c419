"""Pure arithmetic, no I/O: what a run will do, before it does it."""
