"""Names of files made of what a user typed: labels may hold slashes, dots and whole sentences."""

import hashlib
import os
import re

LONGEST = 60  # bytes


def file_name(text: str) -> str:
    """The text as a part of a file's name: no path, no hidden file, not long, the same for the same text.

    Letters of any script, digits and "_", "+", "-", "." inside stay; where something was changed, a digest of the whole
    text keeps two texts apart.
    """
    safe = re.sub(r"[^\w.+-]+", "_", text).strip("._") or "_"
    while len(os.fsencode(safe)) > LONGEST:
        safe = safe[:-1]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:6]}"
