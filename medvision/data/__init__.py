"""Images in: sources, decoding, splits, and whole batches of uint8."""
