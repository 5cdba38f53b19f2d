"""The servers that the service is compared with: one file each, run in the peer's own environment."""
