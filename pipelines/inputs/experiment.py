"""One experiment: the sections of a YAML. Composed here; each is declared in options/SECTION.py."""

from dataclasses import dataclass, field

from pipelines.data.data_config import DataConfig
from pipelines.inputs.options.cache import CacheSection
from pipelines.inputs.options.evaluate import EvaluateSection
from pipelines.inputs.options.export import ExportSection
from pipelines.inputs.options.latte import LatteSection
from pipelines.inputs.options.motion import MotionSection
from pipelines.inputs.options.reconstruct import ReconstructSection
from pipelines.inputs.options.report import ReportSection
from pipelines.inputs.options.sample import SampleSection
from pipelines.inputs.options.vae import VaeSection
from pipelines.inputs.options.weights import WeightsSection
from pipelines.run.run_config import RunConfig


@dataclass(frozen=True)
class Experiment:
    """Everything a YAML can set."""

    data: DataConfig = field(default_factory=DataConfig)
    motion: MotionSection = field(default_factory=MotionSection)
    vae: VaeSection = field(default_factory=VaeSection)
    reconstruct: ReconstructSection = field(default_factory=ReconstructSection)
    cache: CacheSection = field(default_factory=CacheSection)
    latte: LatteSection = field(default_factory=LatteSection)
    sample: SampleSection = field(default_factory=SampleSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    report: ReportSection = field(default_factory=ReportSection)
    export: ExportSection = field(default_factory=ExportSection)
    weights: WeightsSection = field(default_factory=WeightsSection)
    run: RunConfig = field(default_factory=RunConfig)
