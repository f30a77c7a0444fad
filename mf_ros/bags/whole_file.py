"""Text files that are either whole or not there, also when the run is stopped while they are written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mf_ros.errors import BagError


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text in one step; an existing file is replaced.

    Raises:
        BagError: it cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        # Temporary files are private to their owner; this one is meant to be read.
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise BagError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
