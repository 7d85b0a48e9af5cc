"""Run a command; the last line printed is its seconds and the largest resident set of its processes in kB.

A process of its own, and a small one: what a large parent forks counts the parent's memory as its own peak.
"""

import resource
import subprocess
import sys
import time

start = time.perf_counter()
code = subprocess.run(sys.argv[1:], check=False).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
