"""Rows of many requests run together, and every answer goes back to its own request."""
