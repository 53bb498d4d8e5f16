# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
KERNELS := hatch_build.py $(wildcard solver/engines/kernels/*.[ch])
# One BLAS thread: engines solve tiny dense systems, where spinning threads only steal time from each other.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# Tests share the cores, up to four of them; with WORKERS=0 they run one after the other, and -s and --pdb work.
WORKERS ?= logical
PARALLEL := --numprocesses=$(WORKERS) --maxprocesses=4 --dist=worksteal

.PHONY: demo serve test test-pure sanitize check docs litellm litellm-matrix bench bench-smoke clean

demo: $(VENV)/.installed  ## install, solve a bundled instance, print the report, write the files
	mkdir -p demo-output
	$(BIN)/solver solve data/demo.yaml --output demo-output

serve: $(VENV)/.serving  ## the HTTP service with an invented load: http://127.0.0.1:8080/
	$(BIN)/solver serve --demo

test: $(VENV)/.developing  ## the whole test suite, documentation examples included
	$(BIN)/python -m pytest $(PARALLEL)

test-pure: $(VENV)/.developing  ## what the compiled kernels touch, without them
	SOLVER_PURE=1 $(BIN)/python -m pytest -q $(PARALLEL) tests/engines tests/contract/test_engines.py tests/property tests/solution \
		tests/online/test_occupancy.py tests/online/test_window_prices.py tests/online/test_joint.py

test-lowest: $(VENV)/lowest/.installed  ## the suite on the lowest versions that pyproject.toml allows
	$(VENV)/lowest/bin/python -m pytest $(PARALLEL) -p no:cacheprovider --ignore=docs/conf.py

$(VENV)/lowest/.installed: pyproject.toml .ci/lowest $(KERNELS)
	$(PYTHON) -m venv $(VENV)/lowest
	$(PYTHON) .ci/lowest > $(VENV)/lowest/constraints.txt
	$(VENV)/lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)/lowest/bin/python -m pip install --quiet --constraint $(VENV)/lowest/constraints.txt \
		--editable ".[parquet,excel,redis,report,service]" --group test
	touch $@

sanitize: $(VENV)/.developing  ## the kernels' tests under the address and undefined-behaviour sanitizers
	mkdir -p build/sanitized
	$(BIN)/python hatch_build.py build/sanitized -g -fsanitize=address,undefined -fno-sanitize-recover=all -DNO_CLONES
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 SOLVER_KERNELS=build/sanitized/_kernels.so \
		$(BIN)/python -m pytest -q -p no:cacheprovider tests/engines/test_kernels.py tests/online/test_compiled_prices.py

check: $(VENV)/.developing  ## formatting, lint, spelling, types, import doors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.developing  ## the documentation site, in docs/_build
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build

LITELLM_NEWEST := 1.110.2
LITELLM_VERSIONS := 1.103.0 1.106.12 $(LITELLM_NEWEST)
# What LiteLLM's proxy imports. Its own extra [proxy] pins a LiteLLM of its own, on some indexes an older one.
LITELLM_PROXY := uvicorn orjson apscheduler backoff gunicorn cryptography python-multipart PyJWT websockets rq \
	fastapi-sso email-validator semver expression backports.zstd pynacl rich uvloop mcp soundfile

litellm: litellm-$(LITELLM_NEWEST)  ## the plug-in's traces on the newest LiteLLM tested, in an environment of its own

litellm-matrix: $(addprefix litellm-,$(LITELLM_VERSIONS))  ## the same on the lowest, a middle and the newest version

litellm-%: $(VENV)/litellm-%/.installed
	$(VENV)/litellm-$*/bin/python -m pytest -q tests/litellm_plugin -p no:cacheprovider

$(VENV)/litellm-%/.installed: $(VENV)/.developing
	$(PYTHON) -m venv $(VENV)/litellm-$*
	$(VENV)/litellm-$*/bin/python -m pip install --quiet --editable . "litellm==$*" "time-machine>=2.16" fastapi pytest \
		pytest-benchmark pytest-randomly hypothesis hatchling redis $(LITELLM_PROXY)
	touch $@

.PRECIOUS: $(VENV)/litellm-%/.installed

bench: $(VENV)/.developing  ## every benchmark, peers in the same run
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,max,rounds

bench-smoke: $(VENV)/.developing  ## each benchmark once, on its smallest instances
	BENCH_SMOKE=1 $(BIN)/python -m pytest benchmarks -q --benchmark-disable -o addopts="--import-mode=importlib"

clean:
	rm -rf $(VENV) demo-output docs/_build build dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(BIN)/python pyproject.toml $(KERNELS)
	$(BIN)/python -m pip install --quiet --editable ".[parquet]"
	touch $@

$(VENV)/.serving: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[parquet,service]"
	touch $@

$(VENV)/.developing: $(BIN)/python pyproject.toml $(KERNELS)
	$(BIN)/python -m pip install --quiet --editable ".[parquet,ray,redis,report,service]" --group dev
	touch $@ $(VENV)/.installed
