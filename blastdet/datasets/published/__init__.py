"""Published data sets whose layout is their own. Imports `segmentation` and below."""
