"""Several processes that fit one net: launch.py says how each was started, group.py lets them talk."""
