"""Training: the only package that imports torch.

What leaves it is an exported model with its card. Imports `evaluation` and below.
"""
