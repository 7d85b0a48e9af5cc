"""Commands that make models: one file each."""
