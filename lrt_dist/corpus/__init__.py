"""From text to row index: documents, segments, sites, contrast data, overlap."""
