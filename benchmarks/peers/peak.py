"""Run a command; the last line printed is its seconds and the largest resident set of its processes in kB.

This must be a small process: a child of a large process starts with the peak memory of its parent.
"""

import resource
import subprocess
import sys
import time

start = time.perf_counter()
code = subprocess.run(sys.argv[1:], check=False).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
