"""Work on hostile bytes in processes that may be killed: a pool of them, and their share of memory."""
