"""Images that show one cell each: which cell it is, its scale, its type, and the run that writes them to files.

Imports the rest of `inference`, `models`, `datasets` and below.
"""
