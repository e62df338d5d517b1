"""Composing a configuration from conf/, and checking it before anything is built."""
