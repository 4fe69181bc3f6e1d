# "make help" lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: env
env: $(VENV)/.ready java $(VENV)/.rehearsed  ## create .venv with all dependencies, spark-submit included

EXTRA ?= dev
$(VENV)/.ready: pyproject.toml constraints.txt $(wildcard spark_jobs/conf/*)
	@echo "installing into $(VENV): takes one or two minutes, mostly for torch"
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRA)]'
	conf=$$(python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "conf")'); \
	mkdir -p "$$conf"; cp spark_jobs/conf/* "$$conf/"
	@touch $@

.PHONY: java
java: $(VENV)/.ready
	@python -m cxrfeat.spark.java || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing Java" && \
	  apt-get update -qq && { apt-get install -y -qq openjdk-17-jre-headless || apt-get install -y -qq openjdk-21-jre-headless; } && \
	  python -m cxrfeat.spark.java; }

# Class data sharing, see spark_jobs/conf/spark-env.sh. The class path must equal the one set there, which lacks conf.
$(VENV)/.rehearsed: $(VENV)/.ready | java
	@echo "running a small job to archive the Java classes in $(VENV)/classes.jsa: takes half a minute"
	@rm -f "$(VENV)/classes.jsa"; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	python -m cxrfeat.phantom --count 2 --output "$$folder/images" >"$$folder/log" 2>&1 && \
	SPARK_CONF_DIR="$$(python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)')/conf/none" \
	SPARK_SUBMIT_OPTS="-XX:+UseSerialGC -XX:+IgnoreUnrecognizedVMOptions -XX:ArchiveClassesAtExit=$(VENV)/classes.jsa" \
	spark-submit spark_jobs/extract.py --images "$$folder/images" --output "$$folder/output" --weights random \
	  --metadata "$$folder/images/Data_Entry_2017_v2020.csv" >>"$$folder/log" 2>&1 || { cat "$$folder/log"; exit 1; }
	@touch $@

DEMO_OPTIONS ?=
.PHONY: demo
demo: env  ## draw 60 phantom X-rays, embed them, train a head, score two drops, print the web page command
	python -m cxrfeat.demo $(DEMO_OPTIONS)

# S3 server for tests, in a separate environment: moto's botocore needs an older python-dateutil than the project.
$(BIN)/moto_server: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/s3
	$(VENV)/s3/bin/pip install --quiet --disable-pip-version-check 'moto[s3]==5.2.5' 'flask-cors==6.0.5'
	ln -sf ../s3/bin/moto_server $@

TEST_WORKERS ?= 3
.PHONY: test
test: env $(BIN)/moto_server  ## run all tests except cluster tests, in three processes (TEST_WORKERS=N)
	pytest -m "not cluster" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: quick
quick: lint  ## run the linters and the tests without Spark, real data and slow tests, in about a minute
	pytest -m "not (spark or slow or shared or cluster)" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: coverage
coverage: env $(BIN)/moto_server  ## run the same tests; require 95 % line and branch coverage
	pytest -m "not cluster" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

.PHONY: test-cluster
test-cluster: env  ## test faults, GPU scheduling and both jobs on a local standalone cluster
	pytest -m cluster

CLUSTER_OPTIONS ?=
.PHONY: cluster
cluster: env  ## run a master and two workers until Ctrl-C (CLUSTER_OPTIONS='--cores 2 --discovery docker/discover-gpus.sh')
	python -m tests.cluster.standalone $(CLUSTER_OPTIONS)

.PHONY: lint
lint: env  ## run the same checks as pre-commit: ruff, mypy --strict, linters for shell, Dockerfile and compose file
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run docker/*.sh spark_jobs/conf/spark-env.sh
	hadolint docker/Dockerfile
	check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	podman-compose --dry-run --env-file docker/example.env --file docker/compose.yaml --profile tools config >/dev/null

# Spark workers import a shipped .zip, but not a .whl. A wheel is a zip, and hatchling's is reproducible byte for byte.
DIST ?= dist
.PHONY: dist
dist: env  ## build the wheel, and a copy as zip for spark-submit --py-files, in dist/
	hatchling build --target wheel --directory "$(DIST)"
	for wheel in "$(DIST)"/cxrfeat-*-py3-none-any.whl; do cp "$$wheel" "$${wheel%-py3-none-any.whl}.zip"; done

BENCH_IMAGES ?= build/phantoms
BENCH_OPTIONS ?=
BENCH_VENV := build/bench-venv
.PHONY: bench-env
bench-env:  ## create build/bench-venv with the peer programs, separate from .venv, and draw images if missing
	$(MAKE) --no-print-directory bench-images VENV=$(BENCH_VENV) EXTRA=bench

.PHONY: bench-all
bench-all: bench-env  ## compare extraction with every peer, half an hour (BENCH_IMAGES, BENCH_OPTIONS)
	export PATH="$(abspath $(BENCH_VENV))/bin:$$PATH"; \
	python -m benchmarks.extract --images "$(BENCH_IMAGES)" --contenders all --count 621 --long-count 2000 --save $(BENCH_OPTIONS); \
	python -m benchmarks.results

.PHONY: bench-gpu
bench-gpu: bench-env  ## GPU: agreement with the CPU, number of usable cores, time per stage
	export PATH="$(abspath $(BENCH_VENV))/bin:$$PATH"; \
	python -m benchmarks.gpu --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS); \
	python -m benchmarks.stages --device cuda --batch-size 128 --count 128 --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-images
bench-images: env
	test -d "$(BENCH_IMAGES)" || python -m cxrfeat.phantom --count 200 --workers 2 --output "$(BENCH_IMAGES)"

.PHONY: bench
bench: bench-images  ## compare extraction with a bare and a naive loop (BENCH_IMAGES=DIR, BENCH_OPTIONS='--weights F')
	python -m benchmarks.extract --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-stages
bench-stages: bench-images  ## measure the time per stage of one image on one core (BENCH_OPTIONS='--weights F')
	python -m benchmarks.stages --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-fit
bench-fit: env  ## compare grid training with single runs (BENCH_OPTIONS='--rows N', or '--memory N' for loading)
	python -m benchmarks.fit $(BENCH_OPTIONS)

.PHONY: bench-score
bench-score: env  ## compare scoring with a pyarrow + torch program (BENCH_OPTIONS='--memory 100000 1000000' for memory)
	python -m benchmarks.score $(BENCH_OPTIONS)

.PHONY: constraints
constraints:  ## update constraints.txt to the newest compatible versions
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	{ echo '# The versions that the project is tested with; "make env" installs these. Renew with "make constraints".'; \
	  build/constraints/bin/pip freeze --exclude-editable; } > constraints.txt

.PHONY: clean
clean:  ## remove all generated files, .venv included
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
