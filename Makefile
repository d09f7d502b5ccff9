# make run: the main job · make test: the tests · both set up what they need.

SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PYTHONDONTWRITEBYTECODE := 1

RUST := $(shell find crates -name '*.rs' -o -name Cargo.toml -o -name '*.h' 2>/dev/null) Cargo.toml Cargo.lock algorithms.toml
STAMP := $(VENV)/.stamps

.PHONY: help setup run docs test soak lint bench clean

help:
	@echo "make run    sets up and does the main job"
	@echo "make test   sets up and runs the tests"
	@echo "make soak   the long tests · make bench: the figures · make lint · make setup · make clean"

setup: $(STAMP)/install

# Debian's packages. Rust only where there is none, or one before 1.85.
$(STAMP)/system:
	mkdir -p $(STAMP)
	need=()
	command -v cc >/dev/null || need+=(build-essential)
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
	[ -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || need+=(python3-dev)
	if ! rustc --version 2>/dev/null | awk '{split($$2, v, "."); exit !(v[1] > 1 || v[2] >= 85)}'; then
	  need+=(rustc-web cargo-web rustfmt-web rust-web-clippy)
	fi
	if [ $${#need[@]} -gt 0 ]; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${need[@]}" >/dev/null
	fi
	touch $@

$(STAMP)/venv: $(STAMP)/system
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip 'setuptools>=77' 'setuptools-rust>=1.13' wheel
	touch $@

$(STAMP)/dependencies: $(STAMP)/venv pyproject.toml
	$(BIN)/python - <<-'EOF' > $(STAMP)/requirements
	import tomllib
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
	print("\n".join(sum(extras.values(), [])))
	EOF
	$(BIN)/pip install -q -r $(STAMP)/requirements
	touch $@

$(STAMP)/install: $(STAMP)/dependencies $(RUST) pyproject.toml
	@echo "building cryptofd"
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch $@

# What the lab's kernels and userlands and the tests in C need, and the programs that the PKCS#11 module is tried with.
LAB_PACKAGES := user-mode-linux qemu-system-x86 busybox-static cpio kmod zstd libkcapi-dev keyutils valgrind openssl mmdebstrap \
  libnss3-tools opensc gnutls-bin p11-kit openssh-client iproute2 curl

$(STAMP)/lab: $(STAMP)/install
	missing=()
	for package in $(LAB_PACKAGES); do
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing+=($$package)
	done
	if [ $${#missing[@]} -gt 0 ]; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	fi
	# A server that is installed would run on this host: unpacked it runs only for the test of a login.
	if ! PATH=$$PATH:/usr/sbin command -v sshd >/dev/null && [ ! -e .lab/sshd/usr/sbin/sshd ]; then
	  mkdir -p .lab/sshd
	  (cd .lab/sshd && apt-get download -qq openssh-server libwrap0 2>/dev/null && for file in *.deb; do dpkg -x $$file . && rm $$file; done) || echo "no sshd here"
	fi
	# So would a VPN daemon; its libraries do not.
	if [ ! -e /usr/libexec/ipsec/pluto ] && [ ! -e .lab/libreswan/usr/libexec/ipsec/pluto ]; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-cache show libreswan >/dev/null 2>&1 || apt-get update -qq || true
	  mkdir -p .lab/libreswan
	  (cd .lab/libreswan && apt-get download -qq libreswan 2>/dev/null && \
	   apt-get install -y -qq --no-install-recommends $$(apt-cache depends libreswan | sed -n 's/^  Depends: \(lib[^ ]*\)$$/\1/p') >/dev/null && \
	   dpkg -x libreswan_*.deb . && rm libreswan_*.deb) || echo "no libreswan here"
	fi
	# So would web servers.
	for server in nginx haproxy apache2; do
	  [ ! -e /usr/sbin/$$server ] && [ ! -e .lab/$$server/usr/sbin/$$server ] || continue
	  export DEBIAN_FRONTEND=noninteractive
	  package=$${server/apache2/apache2-bin}
	  apt-cache show $$package >/dev/null 2>&1 || apt-get update -qq || true
	  mkdir -p .lab/$$server
	  (cd .lab/$$server && apt-get download -qq $$package 2>/dev/null && \
	   apt-get install -y -qq --no-install-recommends $$(apt-cache depends $$package | sed -n 's/^  Depends: \(lib[^ ]*\)$$/\1/p') >/dev/null && \
	   dpkg -x $${package}_*.deb . && rm $${package}_*.deb) || echo "no $$server here"
	done
	# Not every release has them; the tests say so when they do without.
	for package in python3-nss libcurl3-nss libcurl3-gnutls; do
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' && continue
	  export DEBIAN_FRONTEND=noninteractive
	  apt-cache show $$package >/dev/null 2>&1 || apt-get update -qq || true
	  apt-get install -y -qq --no-install-recommends $$package >/dev/null 2>&1 || echo "no $$package here"
	done
	$(BIN)/python -m lab setup
	touch $@

# The main job on a kernel image that the lab fetched anyway, and on the files of this repository.
run: $(STAMP)/lab
	$(BIN)/python -m cryptofd tour --lab qemu-6.1 .lab/qemu-6.1/boot/vmlinuz-* .

docs: $(STAMP)/install
	$(BIN)/python docs/algorithms.py > docs/algorithms.md.new
	mv docs/algorithms.md.new docs/algorithms.md

# Each test program is linked by itself: optimising across crates would take most of the time.
test: $(STAMP)/lab
	CARGO_PROFILE_RELEASE_LTO=off cargo test --release --workspace --exclude cryptofd-python -q
	$(BIN)/python -m pytest -m 'not soak'

FUZZ_SECONDS ?= 300
FUZZ_TARGETS := $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))

# The token that the PKCS#11 module is measured against.
SOAK_PACKAGES := softhsm2

soak: $(STAMP)/lab
	if ! dpkg-query -W -f '$${Status}' $(SOAK_PACKAGES) 2>/dev/null | grep -q 'ok installed'; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(SOAK_PACKAGES) >/dev/null
	fi
	CARGO_TARGET_DIR=$(CURDIR)/target/model cargo test --release --manifest-path tests/model/Cargo.toml
	$(BIN)/python -m pytest -m soak --timeout 3600
	if ! rustup --version >/dev/null 2>&1; then
	  echo "fuzz: skipped, this compiler is not rustup's and has no sanitizers"
	  exit
	fi
	command -v cargo-fuzz >/dev/null || cargo install -q --locked cargo-fuzz
	cd fuzz
	for target in $(FUZZ_TARGETS); do
	  echo "fuzz: $$target, $(FUZZ_SECONDS) s"
	  CARGO_TARGET_DIR=$(CURDIR)/target/fuzz RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- \
	    -len_control=0 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 2>&1 | grep -E 'stat::|ERROR|SUMMARY|panicked' || exit 1
	done

lint: $(STAMP)/install
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -q -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The peers of the broker's bench.
BENCH_PACKAGES := softhsm2 p11-kit p11-kit-modules openssh-client libnss3-tools libssl-dev

bench: $(STAMP)/lab
	missing=()
	for package in $(BENCH_PACKAGES); do
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing+=($$package)
	done
	if [ $${#missing[@]} -gt 0 ]; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	fi
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) target build .lab python/cryptofd/*.so
