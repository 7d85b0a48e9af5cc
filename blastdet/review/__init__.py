"""See every error, correct it, feed it back. The same cells and views for the static page and for FiftyOne."""
