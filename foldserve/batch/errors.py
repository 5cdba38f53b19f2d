"""What can stop a batch job, in one sentence."""


class BatchError(Exception):
    """An input that cannot be read, an output that cannot be written, or parts of another job."""
