# The whole routine: `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo run test test-processors check

demo: $(VENV)/installed
	$(BIN)/python featext.py samples
	if grep -qs '"finished": true' training/checkpoints/demo/model.json; then :; \
	elif test -d training/checkpoints/demo; then $(BIN)/python featext.py resume demo; \
	else $(BIN)/python featext.py pretrain --name demo --images data/samples \
		--set architecture=redux --set epochs=15; fi
	$(BIN)/python featext.py evaluate demo
	$(BIN)/python featext.py extract demo --images data/samples

run: $(VENV)/installed
	@$(BIN)/python featext.py

test: $(VENV)/installed-development
	$(BIN)/python -m pytest

# What depends on the processor, on two others that this one imitates: without AVX-512, and without bfloat16.
OF_PROCESSORS := tests/test_engines.py tests/test_winograd.py tests/test_linear_path.py tests/test_verify.py
test-processors: $(VENV)/installed-development
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/python -m pytest $(OF_PROCESSORS)
	ONEDNN_MAX_CPU_ISA=AVX512_CORE OMP_NUM_THREADS=4 $(BIN)/python -m pytest $(OF_PROCESSORS)

check: $(VENV)/installed-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-development: requirements-development.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-development.txt
	touch $@
