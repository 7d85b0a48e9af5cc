"""Training of second-stage classifiers: crops, networks, scikit-learn models on features, calibration, publishing.

May import `training.loop`, `evaluation` and everything below it, but not `detection`.
"""
