"""An evaluation as text, JSON, CSV, plots and one HTML page. Imports `inference` and below."""
