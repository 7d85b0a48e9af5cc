"""Look for faulty and duplicate images with CleanVision: python audit_cleanvision.py IMAGES."""

import sys

from cleanvision import Imagelab

lab = Imagelab(data_path=sys.argv[1])
lab.find_issues(verbose=False)
print(lab.issue_summary.to_string())
