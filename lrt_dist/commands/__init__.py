"""What the driver does: one file for each command, and parts of commands in files with a `_`."""
