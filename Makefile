# Two commands for a newcomer: `make demo` and `make test`.
#
# Everything runs in the release profile, so that RocksDB's C++ is compiled only once; the first
# build takes about a quarter of an hour on two cores.

CARGO ?= cargo
BUILD := $(CARGO) build --locked --release --workspace
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo test bench sim doc lint fmt deps

help: ## say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: deps ## three kv servers: load, kill the leader, check, change members (arguments: ARGS="--keep")
	$(BUILD) --bins
	$(TARGET)/release/kv demo $(ARGS)

test: deps ## every test, example and README command
	$(CARGO) test --locked --release --workspace

bench: deps ## measure, side by side with openraft (arguments: ARGS="--quick")
	$(BUILD) --bins
	$(TARGET)/release/bench $(ARGS)

sim: deps ## simulate more schedules of the core (SEEDS=20000)
	RAFT_SIM_SEEDS=$(or $(SEEDS),20000) $(CARGO) test --locked --release --workspace --lib consensus::sim -- --nocapture

doc: deps ## build the documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --release --workspace --no-deps

lint: deps ## format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

# What cargo cannot fetch: a C++ compiler, and libclang for the bindings to RocksDB. Installed where
# that is allowed, else named in one line.
deps:
	@command -v $(CARGO) >/dev/null || { echo "missing: cargo (install Rust first)"; exit 1; }
	@missing=""; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	{ [ -n "$$LIBCLANG_PATH" ] || ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so' \
	  || ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* \
	        /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*.so* /usr/local/lib/libclang*.so* 2>/dev/null \
	     | grep -qv 'libclang-cpp'; } \
	  || missing="$$missing libclang-dev"; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing:$$missing"; \
	  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "missing:$$missing (for example: sudo apt-get install$$missing)"; exit 1; \
	fi
