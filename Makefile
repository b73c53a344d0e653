# Every target runs in .venv, which is built from requirements.lock: each download is checked against its hash.
# ARGS is passed on (make test ARGS="-k fork -x"); PYTHON names the Python to build .venv with.

.DEFAULT_GOAL := help
.PHONY: help demo test docs bench lint fmt type lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS='	' read -r name what; do printf '  %-6s %s\n' "$$name" "$$what"; done

demo: .venv/.ready ## see it work
	@.venv/bin/python examples/demo.py

test: .venv/.ready ## run the tests, in three processes
	@.venv/bin/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

docs: .venv/.ready ## run the code blocks of the documentation
	@.venv/bin/python -m pytest tests/test_docs.py $(ARGS)

bench: .venv/.ready ## measure
	@.venv/bin/python -m bench $(ARGS)

lint: .venv/.ready ## check style and formatting
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

fmt: .venv/.ready ## repair what lint can repair
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

type: .venv/.ready ## check types
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright $(ARGS)

lock: ## write requirements.lock anew from pyproject.toml (ARGS=--upgrade takes newer versions)
	@$(find_python); tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	"$$python" -m venv "$$tmp" && "$$tmp/bin/pip" install -q --disable-pip-version-check uv && \
	"$$tmp/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command 'make lock' pyproject.toml --extra dev --extra openai-agents -o requirements.lock $(ARGS)

clean: ## remove .venv and every cache
	@rm -rf .venv .hypothesis .judges .pytest_cache .ruff_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $python to the first Python that is new enough and can make a venv.
define find_python
python=; for p in "$(PYTHON)" python3.13 python3.12 python3.11 python3; do \
  if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi; \
done; \
[ -n "$$python" ] || { echo "Python 3.11 or newer with venv is needed (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
endef

# The second install is Holdfast itself, editable, with the build backend that the lock installed.
.venv/.ready: requirements.lock pyproject.toml
	@$(find_python); \
	if ! .venv/bin/pip --version >/dev/null 2>&1; then \
	  echo "first run: making .venv and installing what requirements.lock lists (half a minute)"; \
	  "$$python" -m venv --clear .venv; \
	fi
	@.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@.venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
