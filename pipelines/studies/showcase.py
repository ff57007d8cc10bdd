"""What `make showcase` gives, on the embedded shapes: python -m pipelines.studies.showcase [study.key=value ...]"""

from pipelines.studies.chain_scores import chain_study
from pipelines.studies.demo import embedded
from pipelines.studies.experiments import DEMO
from pipelines.studies.study import main

STUDY = chain_study("showcase", "configs/showcase.yaml", embedded, based_on=(DEMO,))

if __name__ == "__main__":
    main(STUDY)
