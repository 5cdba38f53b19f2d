"""Each kind of data set: where its files are found, and how they become rows."""
