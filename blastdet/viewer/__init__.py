"""One page that shows cells: the run of ``detect``, the review of a model, the images of an evaluation.

A page is one HTML file with its data, style and script inside, and image files beside it. It needs no server and no
network. It imports `core` and `imaging`, and knows nothing of models and datasets: others bring the data.
"""
