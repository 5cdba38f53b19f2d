"""The commands of `foldserve` that are no module's own: a file for each."""
