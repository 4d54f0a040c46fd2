# Everything runs in .venv, which is made on first use and whenever the requirements change.
PYTHON ?= python3
# An environment of its own for the peers: python3 -m venv nncf && nncf/bin/pip install nncf openvino onnxruntime onnx
NNCF_PYTHON ?= nncf/bin/python
BIN := .venv/bin

.PHONY: demo test check format bench clean

demo: .venv/installed
	$(BIN)/fewbits demo

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/table.py --check
	$(BIN)/python benchmarks/formats_guide.py --check
	$(BIN)/python -m pytest tests/test_layers.py tests/test_public_api.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/peers.py --nncf-python $(NNCF_PYTHON)
	$(BIN)/python benchmarks/cost_prediction.py
	$(BIN)/python benchmarks/calibration_memory.py
	$(BIN)/python benchmarks/large_model.py
	$(BIN)/python benchmarks/formats_speed.py
	$(BIN)/python benchmarks/formats_guide.py
	$(BIN)/python benchmarks/table.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fewbits needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,images]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,images,bench]'
	touch $@
