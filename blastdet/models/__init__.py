"""Detectors and classifiers behind one interface each, the runtimes that run them, and fakes for tests.

Imports `segmentation` and below.
"""
