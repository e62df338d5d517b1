"""Layouts: functions that read a data set as people have it into an ImageTable."""
