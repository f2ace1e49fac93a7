#!/usr/bin/env bash
# expected: scipy.optimize.milp with options={"disp": False}, its default, prints nothing
# happens: on some ordinary knapsacks HiGHS writes a line of its own to the process's standard output, below Python: sys.stdout and contextlib.redirect_stdout do not see it
# matters: a program whose output is JSON gives a broken document on some inputs and not on others; the descriptor itself has to be turned away while it solves
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet scipy==1.17.1 numpy==2.4.6
cat > knapsack.py <<'PYTHON'
"""One size out of eight for each of sixty things, the cheapest that fits."""

import contextlib
import io
import sys

import numpy as np
import scipy
from scipy.optimize import Bounds, LinearConstraint, milp

random = np.random.default_rng(14)
bits = np.array([2.06, 2.56, 3.06, 3.44, 4.25, 4.5, 5.5, 6.56])
weights = random.integers(1, 400, 60) * 4096
sizes = np.floor(weights[:, None] * bits / 8)
costs = random.lognormal(0, 1.5, 60)[:, None] * 2.0 ** (-2 * bits)
limit = int(sizes.mean(axis=1).sum() * random.uniform(0.8, 1.1))
seen = io.StringIO()
with contextlib.redirect_stdout(seen):
    found = milp(
        costs.ravel(),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(np.kron(np.eye(60), np.ones(8)), 1, 1),
            LinearConstraint(sizes.reshape(1, -1), -np.inf, limit),
        ],
        options={"disp": False, "mip_rel_gap": 1e-7, "time_limit": 60},
    )
print(f"scipy {scipy.__version__}: {found.message}", file=sys.stderr)
print(f"Python's own standard output saw {len(seen.getvalue())} characters", file=sys.stderr)
raise SystemExit(not found.success or seen.getvalue() != "")
PYTHON
venv/bin/python knapsack.py > printed
echo "the process wrote $(wc -c < printed) bytes:"
cat printed
grep -q HighsMipSolverData printed
