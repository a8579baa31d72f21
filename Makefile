# The verbs of this project.  Everything is installed into .venv (what is only
# measured beside it, into .venv-bench), from lock files; python3 (3.11 or newer)
# with its venv module is all that is needed.  Where there is a C compiler, and the
# headers of Python, parts of the package are compiled, and quicker; IOMMUBUS_PURE=1
# in the environment has everything done in Python all the same.

PYTHON := .venv/bin/python
BENCH_PYTHON := .venv-bench/bin/python
INSTALL := -m pip --disable-pip-version-check --quiet install
READY := .venv/.ready
BENCH_READY := .venv-bench/.ready
BUILT_FROM := pyproject.toml tools/compiled_part.py $(wildcard src/iommubus/compiled/*.[ch])

.PHONY: demo test field seeds check fix cover mutants image-check bench bench-quick bench-embedded clean

demo: $(READY)  ## two recorded guests' IOMMU events through the bus, in one process and across several, judged as they go
	.venv/bin/iommubus demo --connect none --connect own

test: $(READY)  ## every test, on every core
	$(PYTHON) -m pytest --numprocesses auto

field: $(READY)  ## real QEMU, DPDK and kernels on the bus; as root, installs what it needs from Debian
	$(PYTHON) -m tests.field

N ?= 100000

seeds: $(READY)  ## N stories of a daemon and its clients, each judged; `python -m tests.seeds SEED` tells one
	$(PYTHON) -m tests.seeds --count $(N)

check: $(READY)  ## style, types, spelling, and the shape of the house; changes nothing
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pyright
	.venv/bin/codespell
	$(PYTHON) -m pytest -q tests/test_floors.py tests/test_public.py tests/test_invariants.py

fix: $(READY)  ## what ruff can mend
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

cover: $(READY)  ## branch coverage of the Python: each machine by its own tests alone, then everything
	$(PYTHON) tools/coverage_by_module.py

mutants: $(READY)  ## seeded bugs in the machines, in Python: which ones does no test see?
	$(PYTHON) tools/mutants.py

image-check: $(READY)  ## build the image of the Dockerfile, start it, ping it; as root, installs buildah if it is missing
	$(PYTHON) tools/image_check.py

bench: $(BENCH_READY)  ## measure the daemon beside NATS, Redis, ZeroMQ, D-Bus, MQTT, zenoh and a bare hub (20 minutes)
	$(BENCH_PYTHON) -m bench.daemon

bench-quick: $(BENCH_READY)  ## the same in two minutes: rough, nothing is saved, and no target that is missed makes it fail
	$(BENCH_PYTHON) -m bench.daemon --quick

bench-embedded: $(BENCH_READY)  ## measure the bus in one process, beside other event buses
	$(BENCH_PYTHON) -m bench.embedded

clean:
	rm -rf .venv .venv-bench build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests tools examples bench -name __pycache__ -prune -exec rm -rf {} +
	rm -f src/iommubus/compiled/*.so

$(READY): requirements/dev.txt $(BUILT_FROM)
	python3 -m venv .venv
	$(PYTHON) $(INSTALL) --require-hashes --requirement requirements/dev.txt
	$(PYTHON) $(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(BENCH_READY): requirements/bench.txt $(BUILT_FROM)
	python3 -m venv .venv-bench
	$(BENCH_PYTHON) $(INSTALL) --require-hashes --requirement requirements/bench.txt
	$(BENCH_PYTHON) $(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@
