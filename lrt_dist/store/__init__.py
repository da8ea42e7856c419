"""What is kept on disk or in an object store; the only package that imports zarr."""
