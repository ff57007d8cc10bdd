# make demo: the whole chain on the embedded data set, ending in runs/demo/report/index.html
# make showcase: the same with four times the clips, trained longer: 80 minutes on two slow CPU cores
# make weights: pretrained networks for published scores and the perceptual loss (175 MB to download, docs/weights.md)
# make test, make lint: the tests; style and types
# make studies: the command of every page in docs/results, as small as it gets (seven minutes)
# make docs: what is generated in docs/: options of the stages, the picture, which results earlier code made
# make faults: kills, full disks, damaged files and the like, hundreds of them; writes docs/results/faults.md (up to 90 minutes)
# Each makes .venv from requirements.lock when it is not there, when the lock changed, or when an install was cut short.

PYTHON ?= python3
BIN := .venv/bin

help:
	@sed -n '1,7s/^# //p' Makefile

demo: .venv/project
	$(BIN)/python pipelines/chain.py configs/demo.yaml

showcase: .venv/project
	$(BIN)/python pipelines/chain.py configs/showcase.yaml

weights: .venv/project
	$(BIN)/python pipelines/weights.py i3d lpips

# Two processes of one thread each: on two cores in two thirds of the time of one with two.
test: .venv/project
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

studies: .venv/project
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m studies --numprocesses 2

faults: .venv/project
	$(BIN)/python tests/faults/run.py

docs: .venv/project
	$(BIN)/python docs/stage_pages.py
	$(BIN)/python docs/architecture_picture.py
	$(BIN)/python -m pipelines.studies.stale

lint: .venv/project
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The copy of the lock is written last: it stands for a complete install of exactly that content.
.venv/requirements.lock: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than 3.11: name a newer one, as in: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "this Python cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@if ! cmp -s requirements.lock $@; then \
		set -e; \
		echo "making .venv: about 6 GB of downloads, once"; \
		rm -rf .venv; \
		$(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	@cp requirements.lock $@

.venv/project: .venv/requirements.lock pyproject.toml
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: help demo showcase weights test studies faults docs lint
