"""Benchmarks: how long the parts take on this machine, measured on a simulated street."""
