"""Paired statistics of several models on the same test cases."""
