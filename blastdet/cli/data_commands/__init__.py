"""Commands that work on datasets, one module each."""
