"""Subcommands of ``mf-ros`` that need the training side."""
