"""Training of second-stage classifiers. Imports `training.loop`, `evaluation` and below."""
