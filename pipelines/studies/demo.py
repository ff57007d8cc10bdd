"""What `make demo` gives, on the embedded moving shapes: python -m pipelines.studies.demo [study.key=value ...]"""

from pipelines.studies.chain_scores import chain_study
from pipelines.studies.experiments import DEMO
from pipelines.studies.study import StudySection, main


def embedded(options: StudySection) -> list[str]:
    """No words: without data.root the chain takes the moving shapes."""
    return []


STUDY = chain_study("demo", DEMO, embedded)

if __name__ == "__main__":
    main(STUDY)
