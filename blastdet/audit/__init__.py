"""Faults and leaks of a data set, found by rule. Imports `datasets` and below."""
