"""Folders that results go to, made before long work begins instead of after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mf_ros.errors import BagError


def make_output_folder(folder: Path) -> None:
    """Make a folder and its parents, and see that files can be written into it.

    Raises:
        BagError: it cannot be made or written to; says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise BagError(f"The output folder {folder} is a file: name a folder.") from error
    except OSError as error:
        raise BagError(
            f"The output folder {folder} cannot be used ({error.strerror}): name one that you may write to."
        ) from error
