"""The training loop, run folders, checkpoints and ONNX export, the same for detectors and classifiers.

May import `training.config`, `evaluation` and everything below it, but neither `detection` nor `classification`.
"""
