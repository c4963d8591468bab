"""The benchmark: this proxy beside its peers, in one run. `python -m tests.bench --help`."""
