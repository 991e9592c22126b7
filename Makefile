# SPDX-License-Identifier: Apache-2.0
# Thin on purpose: prepares a bare machine, then calls tox. See tox.ini for what runs.

VENV := .venv
READY := $(VENV)/.ready

.PHONY: setup setup-browser setup-vagrant demo mesh test test-all lint clean

setup: $(READY)

$(READY): provisioning/requirements.txt provisioning/setup-host.sh
	provisioning/setup-host.sh
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip tox -r provisioning/requirements.txt
	touch $@

# Vagrant with libvirt, and what makes boxes.
setup-vagrant: setup
	provisioning/setup-host.sh vagrant

# Chromium, for the tests of the report.
setup-browser: setup
	provisioning/setup-host.sh browser

demo: setup
	$(VENV)/bin/tox run -qq -e demo

mesh: setup
	$(VENV)/bin/tox run -qq -e mesh

# The end-to-end tests come last: they need the others to be right. Those in the middle take
# one processor each for the most part; what takes longest comes first.
test: setup setup-browser setup-vagrant
	$(VENV)/bin/tox run -q -e lint
	$(VENV)/bin/tox run-parallel -q -p 2 -e e2e-vagrant,unit,browser,growth,fuzz,replay,fastpath
	$(VENV)/bin/tox run -qq -e e2e

# Every test on every guest, and what takes too long for each change: some hours.
test-all: test
	$(VENV)/bin/tox run -q -e coverage,e2e-export,e2e-install,deb,matrix

lint: setup
	$(VENV)/bin/tox run -q -e lint

# Guests that are up, their images, and what the tools keep.
clean:
	python3 -m provisioning down --all
	rm -rf $(VENV) .tox .guests output
