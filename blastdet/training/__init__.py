"""Training of detectors and classifiers, up to an exported model with its card.

The only package that imports torch. `entry_points` has the functions of the Python API, `loop` what every training
shares, `detection` and `classification` one kind of model each. May import `evaluation` and everything below it.
"""
