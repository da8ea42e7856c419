"""A clock that is wrong: Python imports this before anything else where it is on PYTHONPATH."""

import os
import time

_SHIFT = float(os.environ["CLOCK_SHIFT"])
_time = time.time
time.time = lambda: _time() + _SHIFT
