"""What reading an archive of arrays (.npz) that someone else wrote may raise."""

from __future__ import annotations

import tokenize
import zipfile
import zlib

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile and NumPy raise on damaged, encrypted or lying archives."""
