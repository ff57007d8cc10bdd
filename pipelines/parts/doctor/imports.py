"""Imports the modules that are named as arguments, one after the other: what doctor.py runs in a process of its own.

Prints one JSON line per module, {"module", "error": "" or the reason}. A module may end the process: then its line is
missing. Standard library only.
"""

import importlib
import json
import os
import sys
import warnings


def main() -> None:
    """Import all of `sys.argv[1:]`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print must not stand between the answers
    warnings.simplefilter("ignore")
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
            error = ""
        except BaseException as reason:  # a broken package may raise anything, SystemExit included
            lines = str(reason).strip().splitlines()
            error = f"{type(reason).__name__}: {lines[0] if lines else ''}"
        print(json.dumps({"module": module, "error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main()
