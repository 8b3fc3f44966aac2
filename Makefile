# `make run` and `make test` are all a newcomer needs; both set up .venv by themselves.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST ?= .venv-lowest
PROTOBUF7 ?= .venv-protobuf7
TIMM ?= .venv-timm

.PHONY: run test test-lowest test-protobuf7 test-timm lint bench proto setup clean

run: setup
	$(BIN)/tlserve demo $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

# Our lower bounds. Newer tritonclients refuse to run on our oldest grpcio, and 2.71 runs but forbids it by its
# metadata: hence --no-deps. Without grpcio-tools, the test of the generated code skips.
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python tests/lowest_versions.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --requirement $(LOWEST)/lowest.txt --editable .
	$(LOWEST)/bin/python -m pip install --quiet --no-deps tritonclient==2.71.0 python-rapidjson
	$(LOWEST)/bin/python -m pytest $(ARGS)

# tritonclient holds protobuf at 6, so its tests skip here.
test-protobuf7:
	test -x $(PROTOBUF7)/bin/python || $(PYTHON) -m venv $(PROTOBUF7)
	$(PROTOBUF7)/bin/python -m pip install --quiet --upgrade pip
	$(PROTOBUF7)/bin/python -m pip install --quiet --editable . 'protobuf>=7' pytest pytest-asyncio pytest-timeout
	$(PROTOBUF7)/bin/python -m pytest tests/rpc tests/client tests/release tests/runtime $(ARGS)

# plugins/timm is a distribution of its own. Here, and not in .venv: `make test` proves that tlserve needs no timm.
test-timm:
	test -x $(TIMM)/bin/python || $(PYTHON) -m venv $(TIMM)
	$(TIMM)/bin/python -m pip install --quiet --upgrade pip
	$(TIMM)/bin/python -m pip install --quiet --editable . --editable 'plugins/timm[test]'
	$(TIMM)/bin/python -m pytest plugins/timm $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	PYTHONPATH=plugins/timm $(BIN)/lint-imports --no-cache --config plugins/timm/pyproject.toml

bench: setup
	$(BIN)/python -m tests.benchmarks $(ARGS)

proto: setup
	$(BIN)/python proto/generate.py

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing tlserve with PyTorch and ONNX Runtime into $(VENV): about 6 GB, a few minutes the first time."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(LOWEST) $(PROTOBUF7) $(TIMM) build dist .mypy_cache .ruff_cache .pytest_cache
