"""The results of a run on one page: `summary` and `grids` compute, `figures` draw, `page` writes.

Nothing here computes a score that is not in the run directory's Parquet files, so a report can be
made again at any time, on another machine, without a model.
"""
