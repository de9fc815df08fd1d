"""Images on their way to tensors: finding, decoding, preprocessing, splitting, streaming."""
