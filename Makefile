# make demo: own environment, install, train on real MovieLens 100K, show what was learned
# make test: the same environment: linter, type checker, all tests but the slow ones; make test-slow: these
# make docs: the site, from this repository alone, into site/; make docs-serve: the same, shown at http://localhost:8000
# make benchmarks DATA=FOLDER: everything in benchmarks/, with the peers' environments; writes benchmarks/RESULTS.md (hours; ONLY='speed growth': some; QUICK=1: only see whether each one runs)
VENV   ?= .venv
PYTHON ?= python3
OUT    ?= demo-output
PY      = $(VENV)/bin/python

.PHONY: demo test test-slow docs docs-serve clean peers benchmarks

$(VENV)/.installed: settings.ini setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[dev,docs]'
	# its wheel carries MovieLens 100K; only the data files are read, the package is never imported
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps recbole==1.2.1
	touch $@

demo: $(VENV)/.installed
	$(PY) nbs/demo.py --out $(OUT)

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q -n 2 --dist loadfile -m 'not slow' tests

# real sizes, and the whole site: minutes each
test-slow: $(VENV)/.installed
	$(PY) -m pytest -q -m slow tests

docs: $(VENV)/.installed
	$(PY) -m sphinx -q -W --keep-going -b html -d build/doctrees docs site
	rm -rf jupyter_execute  # pictures of the notebooks, which are in the site by now

docs-serve: docs
	$(PY) -m http.server --directory site 8000

clean:
	rm -rf $(VENV) $(OUT) *.egg-info site jupyter_execute docs/reference docs/tutorials docs/results.md docs/rerun.md

# what the benchmarks compare with, in an environment of its own (benchmarks/README.md)
.venv-peers/.installed: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	# its setup.py builds the old way only; the benchmarks do without it where that fails
	-.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check 'setuptools<80' wheel 'pip<25'
	-.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-use-pep517 --no-build-isolation lightfm==1.17
	touch $@

.venv-recbole/.installed: benchmarks/peers-recbole-requirements.txt
	$(PYTHON) -m venv .venv-recbole
	.venv-recbole/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

peers: .venv-peers/.installed .venv-recbole/.installed

benchmarks: $(VENV)/.installed peers
	-$(PY) -m pip install --quiet --disable-pip-version-check --no-deps fbgemm-gpu-cpu==1.9.0
	$(PY) benchmarks/run.py $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)
