"""Device, precision, seeds, optimizer and the passes over the data; no files, no printing."""
