"""Training of detectors. Imports `training.loop`, `evaluation` and below."""
