# Needs Python 3.11 to 3.13 and make, nothing else. Everything is installed into .venv, from requirements.lock.

MINIRAG := .venv/bin/minirag
INSTALLED := .venv/installed

# Without compiled bytecode every command takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo up down test lint format lock clean

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(INSTALLED) ## index two tenants, ask them, show that they can't see each other
	@$(MINIRAG) demo

up: $(INSTALLED) ## start everything on this machine, with the Dagster UI; Ctrl-C stops it
	@$(MINIRAG) up

down: $(INSTALLED) ## stop what `make up` has started
	@$(MINIRAG) down

test: $(INSTALLED) ## run the tests, on every core
	@.venv/bin/pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 ))

lint: $(INSTALLED) ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(INSTALLED) ## rewrite the code in the house style
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# One file for Python 3.11 to 3.13 on Linux, macOS and Windows, which names no index. 3.11.7, because some releases
# leave out the earlier ones.
lock: $(INSTALLED) ## resolve the dependencies of pyproject.toml anew; add ARGS=--upgrade for newer versions
	.venv/bin/python tools/environment.py uv pip compile --universal --python-version 3.11.7 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --all-extras --group dev --quiet $(ARGS) \
		pyproject.toml -o requirements.lock

clean: ## remove .venv and what tools have left; data in .minirag stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@for python in python3 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(not (3, 11, 7) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			exec $$python tools/environment.py; \
		fi; \
	done; \
	echo 'MiniRAG needs Python 3.11 (3.11.7 or later), 3.12 or 3.13, as python3, python3.13, python3.12 or python3.11.' >&2; \
	exit 1
