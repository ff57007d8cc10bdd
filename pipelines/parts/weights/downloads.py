"""Downloads one file over HTTP; what a cut connection left is gone on with."""

import http.client
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

BLOCK = 1 << 20
SECONDS_WITHOUT_DATA = 60.0
ATTEMPTS = 3  # connections in one call; each goes on where the one before was cut
RANGE_NOT_SATISFIABLE = 416


def download(url: str, target: Path) -> Path:
    """The file behind `url` as `.NAME.part` beside `target`, to be checked and renamed by the caller.

    A part that an earlier call left is gone on with where the server can do that. Proxies are those of the environment.
    ValueError, in one sentence, where the server cannot be reached, refuses, or is cut off ATTEMPTS times.
    """
    part = target.with_name(f".{target.name}.part")
    for attempt in range(ATTEMPTS):
        try:
            if _receive(url, part, target.name):
                return part
            reason = "the connection was cut"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) or not part.exists():
                break  # it will not get better
        print(f"{target.name}: {reason}, attempt {attempt + 1} of {ATTEMPTS}", file=sys.stderr)
    raise ValueError(f"{urlsplit(url).hostname or url} does not give {target.name} ({reason})")


def _receive(url: str, part: Path, name: str) -> bool:
    """Append to `part` what is missing; whether it is complete now."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "Mozilla/5.0 (weights)"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS_WITHOUT_DATA)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # longer than, or as long as, the whole file: its check failed, or another process was here
        return _receive(url, part, name)
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = start if goes_on else 0
        total = have + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                if sys.stderr.isatty():
                    print(f"\r{name}: {have / 1e6:.0f} of {total / 1e6:.0f} MB", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return have >= total
