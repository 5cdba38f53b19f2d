"""What one hostile client costs others: attacks on a server, and what another client sees meanwhile."""
