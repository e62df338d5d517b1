"""Hyperparameter search: space, trials, study and page."""
