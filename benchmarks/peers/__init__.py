"""What stands beside the service: one file each, run in that peer's own environment, with its settings."""
