"""Configuration: what fits the schema is merged in order, everything else is refused in one sentence before a run."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.run.config import describe_options, field_comments, load_config, to_dict, to_yaml
from pipelines.run.run_config import RunConfig
from pipelines.run.stage import main
from pipelines.run.task import LoopConfig, may_change


@dataclass(frozen=True)
class NetConfig:
    width: int = 8  # channels of the net
    rate: float = 1e-3  # learning rate
    wide: bool = False  # twice the width
    shape: tuple[int, ...] = (4, 8)  # a shape
    names: tuple[str, ...] = ("mp4",)  # what to write
    channels: dict[str, int] = field(default_factory=lambda: {"keyframe": 4})  # channels per part
    source: str = ""  # where it comes from
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class Experiment:
    net: NetConfig = field(default_factory=NetConfig)
    run: RunConfig = field(default_factory=RunConfig)


@pytest.fixture
def default(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text("net: {width: 16}\n")
    return path


def load(default: Path, *arguments: str) -> Experiment:
    return load_config(Experiment, list(arguments), default)


def test_files_then_arguments_in_order(default: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yml"
    first.write_text("net:\n  width: 1\n  rate: 1e-4\n  shape: [1, 2, 3]\n")
    second.write_text("net:\n  width: 2\n  channels: {motion: 2}\n")
    config = load(default, str(first), "net.width=3", str(second), "net.wide=true", "net.names=[mp4, lossless]")
    assert config.net == NetConfig(3, 1e-4, True, (1, 2, 3), ("mp4", "lossless"), {"keyframe": 4, "motion": 2})
    assert load(default).net.width == 16, "without a file the default one is read"
    assert load(default, str(first)).net.width == 1, "and not otherwise"


@pytest.mark.parametrize("text", ["007", "1e3", "2024-01-01", "true", "a=b", "a: b", "", "../x y", "null"])
def test_text_options_stay_as_typed(default: Path, text: str) -> None:
    assert load(default, f"net.source={text}").net.source == text


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("net.widht=3", r"net\.widht.*Did you mean.*'width'"),
        ("nett.width=3", "nett"),
        ("net.width=x", r"argument 'net\.width=x': net\.width: .*Integer"),
        ("net.width=2.5", r"net\.width"),
        ("net.width=true", r"net\.width"),
        ("net.width=null", r"net\.width"),
        ("net.width=", r"net\.width"),
        ("net.rate=fast", r"net\.rate"),
        ("net.wide=7x", r"net\.wide"),
        ("net.shape=5", r"net\.shape"),
        ("net.shape=[x]", "net.shape"),
        ("net.shape=[1", "not valid YAML"),
        ("net.channels.motion=x", r"net\.channels\.motion"),
        ("net=3", "net"),
        ("net.width.x=3", r"net\.width"),
        ("net.loop.precision=fp16", r"^net\.loop\.precision is 'fp16'.*fp32 or bf16"),
        ("net.loop.log_every=0", r"^net\.loop\.log_every is 0"),
        ("run.device=tpu", "^run.device is 'tpu'"),
        ("run.name=../x", "run.name"),
        ("--steps", r"'--steps'.*CONFIG\.yaml \[overlay\.yaml \.\.\.\] \[key=value \.\.\.\]"),
        ("--steps=3", r"'--steps=3'.*CONFIG\.yaml"),
        ("3", r"'3'.*CONFIG\.yaml"),
        ("=3", r"'=3'.*CONFIG\.yaml"),
        ("net..width=3", r"'net\.\.width=3'.*CONFIG\.yaml"),
    ],
)
def test_refused_in_one_sentence(default: Path, argument: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load(default, argument)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("net:\n  width: 3\n rate: 4\n", "line 3 .*YAML"),
        ("net:\n  width: [1\n", "not valid YAML"),
        ("net:\n  wdth: 3\n", r"bad\.yaml: net\.wdth: .*Did you mean.*'width'"),
        ("- 1\n- 2\n", "must hold sections"),
        ("net: 3\n", "bad.yaml"),
    ],
)
def test_bad_files_are_named(default: Path, tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        load(default, str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_lists_those_that_exist(default: Path) -> None:
    with pytest.raises(ValueError, match=r"no configuration file nope\.yaml .*demo\.yaml"):
        load(default, "nope.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written")
    (path / "empty.yaml").touch()
    return path


NAMES = [option.name for option in fields(NetConfig)]
LETTERS = st.characters(codec="ascii", categories=["Ll"])


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(NAMES), position=st.integers(0, 20), letter=LETTERS)
def test_every_typo_is_refused(folder: Path, name: str, position: int, letter: str) -> None:
    position %= len(name) + 1
    typo = name[:position] + letter + name[position:]
    with pytest.raises(ValueError, match=f"net.{typo}: .*Did you mean"):
        load(folder / "empty.yaml", f"net.{typo}=1")


SHAPES = st.lists(st.integers(0, 99), max_size=4)


@settings(deadline=None, max_examples=15)
@given(width=st.integers(1, 10**6), rate=st.floats(1e-9, 1e9), wide=st.booleans(), shape=SHAPES)
def test_written_settings_read_back_equal(folder: Path, width: int, rate: float, wide: bool, shape: list[int]) -> None:
    config = Experiment(net=NetConfig(width, rate, wide, tuple(shape)))
    path = folder / "written.yaml"
    path.write_text(to_yaml(config))
    assert load(path) == config
    assert to_dict(config)["net"]["shape"] == shape


def test_help_has_every_option_with_meaning_and_default() -> None:
    text = describe_options(Experiment, ("net", "run"))
    for name, default in (("net.width", "int = 8"), ("net.loop.steps", "int = 1000"), ("run.name", "str = 'demo'")):
        assert f"{name}: {default}" in text
    assert "channels of the net" in text
    assert "net.width" not in describe_options(Experiment, ("run",))
    for schema in (LoopConfig, RunConfig):
        assert field_comments(schema).keys() == {f.name for f in fields(schema)}


def test_may_change_names_existing_options() -> None:
    names = {f"net.loop.{f.name}" for f in fields(LoopConfig)}
    assert set(may_change("net.loop")) < names


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["--help"], 0, "net.width: int = 8"),
        (["{default}", "run.dry_run=true"], 0, "5 parameters"),
        (["{default}", "net.wdth=1"], 2, "Did you mean"),
        (["{default}"], 2, "my sentence"),
    ],
)
def test_the_command_line_of_a_stage(
    default: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, output: str
) -> None:
    def run(config: Experiment) -> None:
        raise ValueError("my\nsentence")

    filled = [argument.format(default=default) for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        main("train_net", run, Experiment, ("net", "run"), describe=lambda config: "5 parameters", arguments=filled)
    printed = capfd.readouterr()
    assert caught.value.code == code
    assert output in printed.out + printed.err
    assert "Traceback" not in printed.err
    if code == 2:
        assert re.fullmatch(r"train_net: .*\n", printed.err), "one line"


def test_bases_come_first_in_order_and_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "first.yaml").write_text("run: {name: first, seed: 1, threads: 1}\n")
    (tmp_path / "more" / "second.yaml").write_text("bases: [../first.yaml]\nrun: {name: second, seed: 2}\n")
    (tmp_path / "third.yaml").write_text("bases: [more/second.yaml]\nrun: {name: third}\n")
    run = load_config(Experiment, [str(tmp_path / "third.yaml")], tmp_path / "third.yaml").run
    assert (run.name, run.seed, run.threads) == ("third", 2, 1)
    (tmp_path / "first.yaml").write_text("bases: [third.yaml]\n")
    with pytest.raises(ValueError, match="third.yaml in bases"):
        load_config(Experiment, [str(tmp_path / "third.yaml")], tmp_path / "third.yaml")
    (tmp_path / "first.yaml").write_text("bases: third.yaml\n")
    with pytest.raises(ValueError, match="first.yaml: bases is 'third.yaml'.*list"):
        load_config(Experiment, [str(tmp_path / "first.yaml")], tmp_path / "first.yaml")
    (tmp_path / "first.yaml").write_text("bases: [nothing.yaml]\n")
    with pytest.raises(ValueError, match="no configuration file .*nothing.yaml"):
        load_config(Experiment, [str(tmp_path / "first.yaml")], tmp_path / "first.yaml")


@dataclass(frozen=True)
class Texts:
    """Options that are texts, alone, in lists and by name."""

    one: str = ""
    several: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    number: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WithTexts:
    """A section."""

    section: Texts = field(default_factory=Texts)


TYPED = ["002", "010", "0x1F", "1e3", "1_000", "No", "yes", "on", "null", "~", "true", "3.0", "12:30:00", "2026-12-01"]


@pytest.mark.parametrize("text", TYPED)
def test_every_text_stays_as_it_was_typed(text: str, tmp_path: Path) -> None:
    """In lists and by name too, on the command line and in files: YAML reads numbers, dates and truth in these."""
    file = tmp_path / "texts.yaml"
    file.write_text(f"section: {{one: {text}, several: [{text}, b], named: {{key: {text}}}}}\n")
    arguments = [f"section.one={text}", f"section.several=[{text},b]", f"section.named.key={text}"]
    expected = Texts(one=text, several=(text, "b"), named={"key": text})
    for source in ([str(file)], arguments):
        assert load_config(WithTexts, source, tmp_path, base=WithTexts()).section == expected
    assert load_config(WithTexts, [f"section.several={text}"], tmp_path, base=WithTexts()).section.several == (text,)


def test_what_is_no_text_is_read_as_before(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text("section: {number: 1e-3, weights: {a: 2}, several: []}\n")
    read = load_config(WithTexts, [str(file), "section.weights.b=0.5"], tmp_path, base=WithTexts()).section
    assert read == Texts(number=1e-3, weights={"a": 2.0, "b": 0.5})
