# `make demo` and `make test` do all set-up themselves, in .venv, and touch nothing outside this folder.

PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
CELLS  := lstm gru gru_v3 indrnn
MODELS := $(CELLS) $(sort $(wildcard examples/*.toml))

.PHONY: help venv demo bench test test-all fuzz mutants lint generated check-generated clean

help:
	@echo "make demo             train an LSTM on digits beside torch.nn.LSTM, a cell of its own, and a GRU on 100,000 steps"
	@echo "make bench            time cells beside torch.nn and others for ten minutes, and write docs/performance.md of it"
	@echo "make test             run the tests"
	@echo "make test-all         run those too that compile every kernel for every card; some hours"
	@echo "make fuzz             random cells against the reference, for SECONDS=60 and from SEED=1 on"
	@echo "make mutants          change the code in small ways and see whether a test notices; none is begun after 45 minutes (N=100 SEED=1)"
	@echo "make lint             check the style and the types"
	@echo "make generated        write again what is checked in of what rnngen writes: modules, pages of docs/, a schema"
	@echo "make check-generated  say what of it is stale"
	@echo "make venv             only the set-up, in .venv"
	@echo "make clean            remove .venv and what was built"

venv: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rnngen needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true). Another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs: apt install python3-venv" >&2; exit 1; }
	@echo "Installing torch, Triton and what else is needed into .venv; this may take some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,demo,lint]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m examples.digits
	$(BIN)/python -m examples.sunspots
	$(BIN)/python -m examples.long

# An answer that is wrong ends a run with 1, and is in the report.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@status=0; echo '$(BIN)/python -m benchmarks run'; $(BIN)/python -m benchmarks run || status=$$?; \
	test $$status -gt 1 || $(BIN)/python -m benchmarks report || status=$$?; exit $$status

# Two runs make a whole: Triton decides when it is imported whether kernels run in its interpreter. A worker is a
# process with a core of its own, so it needs no threads.
test-all: WHICH = -m ""
test test-all: $(READY)
	@export OMP_NUM_THREADS=1; status=0; \
	echo '$(BIN)/python -m pytest -n 2 $(WHICH)'; \
	$(BIN)/python -m pytest -n 2 $(WHICH) || status=$$?; \
	echo 'TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 $(WHICH)'; \
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 $(WHICH) || status=$$?; \
	exit $$status

SECONDS ?= 60
SEED    ?= 1
fuzz: $(READY)
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS) --seed $(SEED)

N ?= 100
# Without what universalmutator asks for: its mode that is used here needs none of it, and it brings a module `typing`.
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps universalmutator==1.14.1
	$(BIN)/python tests/mutate.py --number $(N) --seed $(SEED)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

generated: $(READY)
	$(BIN)/rnngen compile $(MODELS) -o generated
	$(BIN)/rnngen cells --markdown > docs/cells.md
	$(BIN)/rnngen schema > examples/rnngen.schema.json
	$(BIN)/python tests/quoted.py docs/explain.md

check-generated: $(READY)
	$(BIN)/rnngen compile $(MODELS) -o generated --check
	$(BIN)/rnngen cells --markdown | diff docs/cells.md -
	$(BIN)/rnngen schema | diff examples/rnngen.schema.json -
	$(BIN)/python tests/quoted.py --check docs/explain.md

clean:
	rm -rf .venv build dist rnngen.egg-info
