# Everything a newcomer needs; each target does its own set-up. Python 3.11 or newer is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a worker: two pytest workers on two cores must not fight over them.
TEST_WORKERS ?= 2

.PHONY: venv demo test lint types bench docs fuzz slurm-sandbox clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	$(BIN)/python -m evaluate.detection.install
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/fastmoco campaign run benchmarks/campaigns/demo.yaml --root runs/demo --cluster local

# SLURM's scenarios come after the rest: their time limits are real, and a busy machine would break them.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --ignore=tests/slurm
	$(BIN)/python -m pytest tests/slurm

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.perf

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# Damaged and invented checkpoint files, drawn anew each time; what breaks the reader is kept beside the test.
FUZZ_EXAMPLES ?= 5000
fuzz: $(STAMP)
	FASTMOCO_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --timeout 0 -p no:randomly tests/evaluate/checkpoints/test_fuzz.py

slurm-sandbox: $(STAMP)
	$(BIN)/python tests/slurm/sandbox.py

clean:
	rm -rf site build dist *.egg-info
