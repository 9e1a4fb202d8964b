# Two commands for a newcomer: `make demo` and `make test`.
#
# Everything runs in the release profile, so that whatever is compiled is compiled once. RocksDB's C++, which only
# what is built with the feature `rocksdb` needs, takes about a quarter of an hour on two cores the first time.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
ROCKSDB := --features raft-examples/rocksdb,raft-integration/rocksdb
# What keeps the logs in `make demo`: file or rocksdb.
STORE ?= file

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick bench sim doc lint fmt deps
ifeq ($(STORE),rocksdb)
demo: deps
endif

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

demo: ## three kv servers: load, kill the leader, check, change members (ARGS="--keep", STORE=rocksdb)
	$(CARGO) build --locked --release -p raft-examples --bin kv $(if $(filter rocksdb,$(STORE)),--features rocksdb)
	$(TARGET)/release/kv demo --store $(STORE) $(ARGS)

test: deps ## every test, example and README command, RocksDB's too
	@echo "compiles everything, RocksDB included: the first time about 25 minutes on two cores, and 8 for the tests"
	$(CARGO) test --locked --release --workspace $(ROCKSDB)

test-quick: ## the same without RocksDB, between two edits
	$(CARGO) test --locked --release --workspace --exclude raft-rocksdb

bench: deps ## measure, side by side with openraft, RocksDB and etcd (arguments: ARGS="--quick")
	$(CARGO) build --locked --release -p raft-integration --bins --features rocksdb
	$(TARGET)/release/bench $(ARGS)

sim: ## simulate more schedules of the core (SEEDS=20000)
	RAFT_SIM_SEEDS=$(or $(SEEDS),20000) $(CARGO) test --locked --release -p raft --lib consensus::sim -- --nocapture

doc: deps ## build the documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --release --workspace --no-deps $(ROCKSDB)

lint: deps ## format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets $(ROCKSDB) -- -D warnings
	$(CARGO) clippy --locked --release -p raft-examples -p raft-integration --all-targets -- -D warnings

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
