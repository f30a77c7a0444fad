"""Training of the FLUX.2 networks with depth: their loss, samples, weights to start from, and export."""
