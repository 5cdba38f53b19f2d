"""What a bundle is, and what proves it: the one room that export and training share with the service."""
