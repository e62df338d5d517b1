"""Labelling new images: annotations, active learning, and the review page."""
