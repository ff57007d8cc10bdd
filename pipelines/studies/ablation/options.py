"""Options of an ablation: the section `ablation`, on top of those of an experiment."""

from dataclasses import dataclass, field

from pipelines.inputs.experiment import Experiment


@dataclass(frozen=True)
class AblationRow:
    """One row of an ablation's table: the experiment with overlays and options of its own."""

    overlays: tuple[str, ...] = ()  # names of overlays (without .yaml), looked up in ablation.overlay_folders
    set: tuple[str, ...] = ()  # options on top of the overlays, such as vae.loop.lr=1e-3
    seeds: int = 0  # number of runs, with seeds run.seed, run.seed + 1, ...; 0 = ablation.seeds
    budget: str = "steps"  # steps: its own vae.loop.steps; time: as many steps as fit into the time of row `like`
    like: str = ""  # the row that gives the time of a row with budget time; empty = ablation.reference
    count_motion: bool = False  # budget time includes the training of the motion module, of both rows


@dataclass(frozen=True)
class AblationSection:
    """Training a list of rows under equal conditions, and the table of their scores."""

    rows: dict[str, AblationRow] = field(default_factory=dict)  # name of the row -> what is different in it
    only: tuple[str, ...] = ()  # names of the rows to run; empty = all
    reference: str = ""  # the row that all others are compared with; empty = the first
    seeds: int = 1  # runs of each row, with seeds run.seed, run.seed + 1, ...
    processes: int = 2  # runs trained side by side
    groups: tuple[str, ...] = ()  # first folders of the clips' paths that are scored apart; all others are "other"
    strides: tuple[int, ...] = ()  # frame strides at which held-out clips are scored; empty = data.frame_stride
    clips_per_video: int = 2  # clips scored per held-out file, with evenly spaced starts
    overlay_folders: tuple[str, ...] = ("configs/overlays",)  # where overlays lie, first match; from the repository
    timing_rounds: int = 8  # how often the step of every row is timed, in turns with the reference row's
    timing_steps: int = 2  # steps per round


@dataclass(frozen=True)
class AblationStudy(Experiment):
    """An experiment and the list of rows that vary it."""

    ablation: AblationSection = field(default_factory=AblationSection)
