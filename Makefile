# make help lists what can be done here.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: help
help:  ## list these verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: env
env: $(VENV)/.ready java $(VENV)/.rehearsed  ## .venv with everything in it, spark-submit too

EXTRA ?= dev
$(VENV)/.ready: pyproject.toml constraints.txt $(wildcard spark_jobs/conf/*)
	@echo "installing into $(VENV): takes a minute or two, most of it torch"
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
	  python -m cxrfeat.java; }

# See spark_jobs/conf/spark-env.sh. The class path must be the one that it sets: conf is not on it.
$(VENV)/.rehearsed: $(VENV)/.ready | java
	@echo "rehearsing a job for Java, which keeps the classes in $(VENV)/classes.jsa: half a minute"
	@rm -f "$(VENV)/classes.jsa"; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	python -m cxrfeat.phantom --count 2 --output "$$folder/films" >"$$folder/log" 2>&1 && \
	SPARK_CONF_DIR="$$(python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)')/conf/none" \
	SPARK_SUBMIT_OPTS="-XX:+UseSerialGC -XX:+IgnoreUnrecognizedVMOptions -XX:ArchiveClassesAtExit=$(VENV)/classes.jsa" \
	spark-submit spark_jobs/extract.py --images "$$folder/films" --output "$$folder/output" --weights random \
	  --metadata "$$folder/films/Data_Entry_2017_v2020.csv" >>"$$folder/log" 2>&1 || { cat "$$folder/log"; exit 1; }
	@touch $@

DEMO_OPTIONS ?=
.PHONY: demo
demo: env  ## draw 60 phantom X-rays, embed them, train a head, score two drops, and say how to open the page
	python -m cxrfeat.demo $(DEMO_OPTIONS)

# An S3 server for tests, in a place of its own: moto's botocore needs an older python-dateutil than the project.
$(BIN)/moto_server: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/s3
	$(VENV)/s3/bin/pip install --quiet --disable-pip-version-check 'moto[s3]==5.2.5' 'flask-cors==6.0.5'
	ln -sf ../s3/bin/moto_server $@

TEST_WORKERS ?= 2
.PHONY: test
test: env $(BIN)/moto_server  ## all tests but those that need a cluster, two files at a time (TEST_WORKERS=N)
	pytest -m "not cluster" -n $(TEST_WORKERS) --dist loadfile

.PHONY: coverage
coverage: env $(BIN)/moto_server  ## what the same tests reach of cxrfeat and head_training, by lines and branches: at least 95 %
	pytest -m "not cluster" -n $(TEST_WORKERS) --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

.PHONY: test-cluster
test-cluster: env  ## faults, GPU scheduling and both jobs on a standalone cluster of this machine's processes
	pytest -m cluster

CLUSTER_OPTIONS ?=
.PHONY: cluster
cluster: env  ## a standalone master and two workers, until Ctrl-C (CLUSTER_OPTIONS='--cores 2 --discovery docker/discover-gpus.sh')
	python -m tests.cluster.standalone $(CLUSTER_OPTIONS)

.PHONY: lint
lint: env  ## ruff, mypy --strict, and the linters of shell, Dockerfile and compose file, as pre-commit runs them
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run docker/*.sh spark_jobs/conf/spark-env.sh
	hadolint docker/Dockerfile
	check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	podman-compose --dry-run --env-file docker/example.env --file docker/compose.yaml --profile tools config >/dev/null

# Workers import a .zip that was shipped, but no .whl. A wheel is a zip, hatchling's is the same bytes each time.
DIST ?= dist
.PHONY: dist
dist: env  ## dist/: the wheel, and the same as a zip for spark-submit --py-files
	hatchling build --target wheel --directory "$(DIST)"
	for wheel in "$(DIST)"/cxrfeat-*-py3-none-any.whl; do cp "$$wheel" "$${wheel%-py3-none-any.whl}.zip"; done

BENCH_IMAGES ?= build/phantoms
BENCH_OPTIONS ?=
BENCH_VENV := build/bench-venv
.PHONY: bench-env
bench-env:  ## build/bench-venv: the peers, apart from .venv and its pinned versions; and films, where there are none
	$(MAKE) --no-print-directory bench-images VENV=$(BENCH_VENV) EXTRA=bench

.PHONY: bench-all
bench-all: bench-env  ## us and every peer in one run: benchmarks/results.md, about 40 minutes (BENCH_IMAGES, BENCH_OPTIONS)
	export PATH="$(abspath $(BENCH_VENV))/bin:$$PATH"; python -m benchmarks.all --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-gpu
bench-gpu: bench-env  ## a GPU: does it agree with the CPU, how many cores can it use, where does an image's time go
	export PATH="$(abspath $(BENCH_VENV))/bin:$$PATH"; \
	python -m benchmarks.gpu --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS); \
	python -m benchmarks.stages --device cuda --batch-size 128 --count 128 --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-images
bench-images: env
	test -d "$(BENCH_IMAGES)" || python -m cxrfeat.phantom --count 200 --workers 2 --output "$(BENCH_IMAGES)"

.PHONY: bench
bench: bench-images  ## extraction against a bare loop and a naive one (BENCH_IMAGES=DIR, BENCH_OPTIONS='--weights F')
	python -m benchmarks.extract --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-memory
bench-memory: bench-images  ## time and memory of driver and workers over 200 and 2,000 films
	python -m benchmarks.scaling --images "$(BENCH_IMAGES)" $(BENCH_OPTIONS)

.PHONY: bench-fit
bench-fit: env  ## the grid at once against one by one, and loading against pyarrow (BENCH_OPTIONS='--rows N')
	python -m benchmarks.fit $(BENCH_OPTIONS)
	python -m benchmarks.load $(BENCH_OPTIONS)

.PHONY: bench-bootstrap
bench-bootstrap: env  ## intervals of 1,000 resamples against loops over scikit-learn
	python -m benchmarks.bootstrap $(BENCH_OPTIONS)

.PHONY: bench-score
bench-score: env  ## scoring against a bare pyarrow + torch program (BENCH_OPTIONS='--memory 100000 1000000' for memory)
	python -m benchmarks.score $(BENCH_OPTIONS)

.PHONY: bench-web
bench-web: env  ## the page: latency against the bare model, eight visitors for a minute (BENCH_OPTIONS='--weights F')
	python -m benchmarks.web $(BENCH_OPTIONS)

.PHONY: constraints
constraints:  ## renew constraints.txt with the newest versions that fit
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	{ echo '# The versions that the project is tested with; "make env" installs these. Renew with "make constraints".'; \
	  build/constraints/bin/pip freeze --exclude-editable; } > constraints.txt

.PHONY: clean
clean:  ## remove what make made, .venv too
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
