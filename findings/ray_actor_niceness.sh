#!/usr/bin/env bash
# expected: an actor that was given all processors of a machine runs with the priority of the process that started it
# happens: Ray starts every worker at niceness 15, also those of a local ray.init(), whatever num_cpus says: beside other busy processes an actor hardly runs
# matters: the same sweep on two busy processors took 325 s with such workers and 29 s with RAY_worker_niceness=0; num_cpus, ray.init and the logs say nothing of it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet ray==2.60.0
export HOME=$folder RAY_USAGE_STATS_ENABLED=0
unset RAY_worker_niceness
cat > niceness.py <<'PYTHON'
import logging
import os

import ray


@ray.remote(num_cpus=1)
class Actor:
    def niceness(self):
        return os.nice(0)


ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
here, there = os.nice(0), ray.get(Actor.remote().niceness.remote())
print(f"ray {ray.__version__}: niceness {here} in the driver, {there} in an actor")
raise SystemExit(there - here != 15)
PYTHON
venv/bin/python niceness.py 2> log.txt || { cat log.txt; exit 1; }
