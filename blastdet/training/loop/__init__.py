"""The training loop, its run folder and its checkpoints, the same for every model. Imports `evaluation` and below."""
