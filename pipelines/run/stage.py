"""How a stage file becomes a command: arguments, --help, dry run, and errors as one sentence.

A stage file ends with `main("train_vae", run, Experiment, ("data", "vae", "run"))` under its `__main__` guard.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pipelines.run.beside import processes_beside
from pipelines.run.config import GRAMMAR, describe_options, is_yaml, load_config, to_dict, to_yaml
from pipelines.run.ranks import disconnect, is_connected, is_first, num_started

T = TypeVar("T")
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def main(
    name: str,
    run: Callable[[T], None],
    schema: type[T],
    sections: Sequence[str],
    describe: Callable[[T], str] | None = None,
    arguments: Sequence[str] | None = None,
    command: str = "",
    default: Path = DEFAULT_CONFIG,
) -> NoReturn:
    """Run one stage from the command line and exit: 0 done, 2 for what the user can mend, 130 / 143 / 138 when
    interrupted by Ctrl-C / SIGTERM / SIGUSR1.

    schema: the dataclass of the whole experiment; it has a section `run` (RunConfig).
    sections: the sections that this stage reads; --help and run.dry_run show these.
    describe: what run.dry_run prints besides the settings, such as parameter counts and steps.
    arguments: the command line without the program's name; the process's own when None.
    command: how --help calls the program; pipelines/NAME.py when empty.
    default: the configuration where none is given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("--help", "-h") for argument in given):
        print(_help(command or f"pipelines/{name}.py", schema, sections, default))
        sys.exit(0)
    try:
        config = load_config(schema, given, default)
        if not any(is_yaml(argument) for argument in given):
            print(f"{name}: no configuration file given, using configs/{default.name}", file=sys.stderr)
        if run_settings(config).dry_run:
            print(_dry_run(name, config, sections, describe))
        else:
            settings, is_shared = run_settings(config), not getattr(run, "is_done_alone", False) and arguments is None
            with processes_beside(name, settings.cpu_processes if is_shared else 1, settings.device):
                run_stage(name, run, config)
    except ValueError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        what = f"{error.filename or 'the output'} cannot be written or read ({error.strerror})"
        print(f"{name}: {what}: make room there or choose another run.root=; the same command goes on", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    finally:
        disconnect()
    sys.exit(0)


def alone(run: Callable[[T], None]) -> Callable[[T], None]:
    """Marks the `run` of a stage that one process does, however many are started; the other processes return."""
    run.is_done_alone = True  # type: ignore[attr-defined]
    return run


def run_stage(name: str, run: Callable[[T], None], config: T) -> None:
    """Call one stage in this process; a ValueError's traceback is kept in the stage's folder as error.txt.

    Of several processes all but the first one return at once from a stage that one does alone.
    """
    if getattr(run, "is_done_alone", False) and num_started() > 1:
        if not is_first():
            return
        if not is_connected():
            for variable in LAUNCHER_VARIABLES:  # nobody will come to meet this process
                os.environ.pop(variable, None)
    settings = run_settings(config)
    require_writable(Path(settings.root) / settings.name)
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    record = Path(settings.root) / settings.name / name / "error.txt"
    record.unlink(missing_ok=True)
    try:
        run(config)
        record.unlink(missing_ok=True)  # another process, refused meanwhile, may have left it
    except ValueError:
        if record.parent.is_dir():
            record.write_text(traceback.format_exc(), encoding="utf-8")
        raise


def require_writable(folder: Path) -> None:
    """Raise ValueError, before anything is built or loaded, where `folder` cannot be made or written."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} cannot be written: choose another run.root=")


def run_settings(config: Any) -> Any:
    """The section `run` of an experiment."""
    return config.run


def select(config: Any, sections: Sequence[str]) -> dict[str, Any]:
    """Some sections of an experiment as plain dicts: what a stage depends on, for `StageFolder.open`."""
    settings = to_dict(config)
    return {section: settings[section] for section in sections}


def _help(command: str, schema: type, sections: Sequence[str], default: Path) -> str:
    usage = f"python {command} [CONFIG.yaml [overlay.yaml ...]] [key=value ...]"
    without = f"Without a configuration file it takes configs/{default.name}; the same command resumes."
    options = describe_options(schema, sections)
    return f"{usage}\n\n{GRAMMAR}\n{without}\n\nOptions (type = default, then their meaning):\n{options}"


def _dry_run(name: str, config: Any, sections: Sequence[str], describe: Callable[[Any], str] | None) -> str:
    settings = run_settings(config)
    output = Path(settings.root) / settings.name / name
    lines = [to_yaml(select(config, sections)), f"output: {output}{' (exists)' if output.exists() else ''}"]
    return "\n".join(lines + ([describe(config)] if describe else []))
