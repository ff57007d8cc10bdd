"""HTML pages: a template beside the code that fills it, with the style that all pages share."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_environment(folder: Path) -> Environment:
    """Templates of a folder, which may include page_style.html.jinja; a name that is not given is an error."""
    folders = FileSystemLoader([folder, Path(__file__).parent])
    return Environment(loader=folders, autoescape=True, trim_blocks=True, undefined=StrictUndefined)
