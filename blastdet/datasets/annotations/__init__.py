"""What all readers of annotations share: text and JSON files, names of classes and types, raw records, images by name.

`formats`, `tools` and `published` are built on it. Imports `imaging` and below.
"""
