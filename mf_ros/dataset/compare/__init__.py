"""The report of a comparison of two networks on a data set."""
