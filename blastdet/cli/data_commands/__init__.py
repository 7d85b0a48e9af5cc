"""Commands about data sets: one file each."""
