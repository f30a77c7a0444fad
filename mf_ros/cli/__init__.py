"""The ``mf-ros`` command; every subcommand is one module, imported only when it is called."""
