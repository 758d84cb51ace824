"""One torch thread per test process: two threads per core slow each other down by far more than a factor of two."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
