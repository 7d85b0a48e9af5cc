"""``python -m blastdet``."""

from blastdet.cli import main

main()
