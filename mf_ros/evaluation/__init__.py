"""How good depth is: held-out returns, metrics and the simple methods everything is compared with."""
