"""What a whole run leaves behind beside the files of each image: printed lines, tables, the page, the PDF report.

It imports what `blastdet.inference` may import, and nothing of the command line.
"""
