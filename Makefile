# `make check` is what CI runs, in the environment at hand.
.PHONY: check test lint types format card

check: test lint types

test:
	python -m pytest -q

lint:
	ruff check .
	ruff format --check .

types:
	mypy

format:
	ruff check --fix .
	ruff format .
