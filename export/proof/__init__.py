"""The folded graph answers as the unfolded net does, within a tolerance that is derived."""
