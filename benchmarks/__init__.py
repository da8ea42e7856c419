"""What the solver costs: ratios, measured in one run, to what else could be used.

    python -m benchmarks [NAME ...] [--quick] [--list]

A second says little about a solver and much about a machine, so nothing here is a lone time: each
figure is the median of ratios of two times that were taken one after the other, of the same work on
the same rows with the same number of threads.
"""
