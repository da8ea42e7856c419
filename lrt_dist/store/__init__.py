"""What is kept on disk or in an object store; the only room that imports zarr."""
