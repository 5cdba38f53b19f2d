"""A bundle over a whole data set, without a server: rows in, a table of answers out."""
