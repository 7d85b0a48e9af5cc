"""Models behind one call each: detectors and classifiers, the runtimes that execute them, fakes for tests.

Imports `segmentation` and below.
"""
