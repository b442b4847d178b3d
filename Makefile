# Every target works from a fresh clone: it makes .venv, installs what it needs once, and remembers that by a stamp.
#   make run ARGS="image 'a red cat' --out cat.png"      make test ARGS="tests/kernels -k hilbert"

VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
PIP := $(PYTHON_IN_VENV) -m pip --disable-pip-version-check install --quiet
CHECKED := $(wildcard app.py studio pipelines kernels benchmarks)

# The active python3 goes first, so that a chosen environment is respected. A candidate must bring ensurepip:
# some systems ship Python without what a virtual environment is made of.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.12 python3.11 python)
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

.DEFAULT_GOAL := help
.PHONY: help run test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Installation talks to stderr only: the output of a command belongs to the command. An environment that somebody
# made by hand is kept; one that is broken or of another Python version is made anew.
$(VENV)/.stamp-venv:
	@if $(PYTHON_IN_VENV) -c '$(USABLE)' && $(PYTHON_IN_VENV) -m pip --version; then touch $@; exit; fi >/dev/null 2>&1; \
	chosen=; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "Tessera Studio needs Python 3.11 or 3.12 with the venv module; none of these is one: $(CANDIDATES)." >&2; \
	  echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$chosen" --version)" >&2; \
	"$$chosen" -m venv --clear $(VENV) && touch $@

$(VENV)/.stamp-run: requirements.txt $(VENV)/.stamp-venv
	@echo "installing requirements.txt (the first time takes a few minutes)" >&2
	@$(PIP) --requirement requirements.txt >&2
	@touch $@

# Dependency groups need pip 25.1.
$(VENV)/.stamp-pip: $(VENV)/.stamp-venv
	@$(PIP) 'pip>=25.1' >&2
	@touch $@

$(VENV)/.stamp-test $(VENV)/.stamp-lint: $(VENV)/.stamp-%: pyproject.toml $(VENV)/.stamp-run $(VENV)/.stamp-pip
	@echo "installing the group '$*' of pyproject.toml" >&2
	@$(PIP) --group $* >&2
	@touch $@

run: ARGS ?= serve
run: $(VENV)/.stamp-run ## start the studio, or any command of it: make run ARGS="doctor"
	@$(PYTHON_IN_VENV) -m studio $(ARGS)

test: $(VENV)/.stamp-test ## run the whole test suite, or a part: make test ARGS="-k layering"
	@$(PYTHON_IN_VENV) -m pytest $(ARGS)

lint: $(VENV)/.stamp-lint ## check style, formatting and types
	@$(PYTHON_IN_VENV) -m ruff check .
	@$(PYTHON_IN_VENV) -m ruff format --check .
	@$(PYTHON_IN_VENV) -m mypy $(CHECKED)

bench: $(VENV)/.stamp-test ## measure operators and pipelines on this machine
	@$(PYTHON_IN_VENV) -m benchmarks.run $(ARGS)

clean: ## remove the environment and all caches, nothing else
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
