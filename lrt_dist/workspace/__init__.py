"""What every command works on: the output directory, the run's inputs, and where work is placed."""
