"""Predictions in, metrics with intervals out; knows no torch."""
