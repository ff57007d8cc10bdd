"""The chain on four classes of simple real actions: python -m pipelines.studies.actions64 [study.key=value ...]"""

from pipelines.studies.chain_scores import chain_study
from pipelines.studies.experiments import SMALL, actions64
from pipelines.studies.study import main

STUDY = chain_study("actions64", SMALL, actions64)

if __name__ == "__main__":
    main(STUDY)
