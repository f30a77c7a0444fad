"""What is in a data set: counts, findings, pages with pictures."""
