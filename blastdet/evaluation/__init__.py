"""How good are detections? Average precision beside per-cell confusion, with an interval on every number.

Imports `inference` and below.
"""
