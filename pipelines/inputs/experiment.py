"""One experiment: the sections of a YAML. Composed here, declared where they are read: parts/STAGE/options.py."""

from dataclasses import dataclass, field

from pipelines.data.data_config import DataConfig
from pipelines.parts.cache_latents.options import CacheSection
from pipelines.parts.evaluate.options import EvaluateSection
from pipelines.parts.export.options import ExportSection
from pipelines.parts.reconstruct.options import ReconstructSection
from pipelines.parts.report.options import ReportSection
from pipelines.parts.sample.options import SampleSection
from pipelines.parts.train_latte.options import LatteSection
from pipelines.parts.train_motion.options import MotionSection
from pipelines.parts.train_vae.options import VaeSection
from pipelines.run.folder import RunConfig


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
    run: RunConfig = field(default_factory=RunConfig)
