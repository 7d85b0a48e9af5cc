"""Commands that make models, one file each. They parse options, call `training`, and print."""
