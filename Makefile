# Everything runs in .venv, set up through constraints.txt: one tested set of versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint format install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	mkdir -p demo
	$(BIN)/restore inpaint assets/images/kitten-scratched.png --mask assets/images/kitten-mask.png \
		--output demo/kitten.png --overwrite
	@echo "open demo/kitten.png, and assets/images/kitten-scratched.png beside it"

test: install lint
	$(BIN)/python -m pytest

slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo *.egg-info
