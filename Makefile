# A thin door to tools/bootstrap.py, which says what each task does and also runs without make.
# Settings are given on the command line and reach it through the environment: make lab EXTRAS=torch,numba
PYTHON ?= python3
TASKS := help lab test test-slow grade release-bundle notebooks kill-matrix figures format pins env clean

.DEFAULT_GOAL := help
.PHONY: $(TASKS)
$(TASKS):
	@$(PYTHON) tools/bootstrap.py $@
