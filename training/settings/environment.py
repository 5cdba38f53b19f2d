"""What must stand in the environment before torch is imported; it imports nothing itself.

Threads that spin while they wait for each other made an epoch 3 to 20 times slower beside one busy process on
2 cores. And MKL promises the same bits from run to run only in this mode, with a number of threads that stays
(Intel oneMKL guide, "Reproducibility Conditions").
"""

import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MKL_CBWR": "AUTO,STRICT", "MKL_DYNAMIC": "FALSE"}


def set_environment() -> None:
    """What the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
