"""Commands that use and judge models: one file each."""
