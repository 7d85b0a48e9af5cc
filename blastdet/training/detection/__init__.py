"""Training of detectors: networks, training samples with unknown regions, augmentation, export and parity tests.

May import `training.loop`, `evaluation` and everything below it, but not `classification`.
"""
