"""Which models there are, which version of each answers, and why another does not."""
