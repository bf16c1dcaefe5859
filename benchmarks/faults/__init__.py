"""Kills the command at many moments, resumes it, and compares what it leaves with a run that was never killed."""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before torch is imported: a process with threads must not fork
