# Two commands for a newcomer: `make demo` and `make test`.
#
# Everything runs in the release profile, so that whatever is compiled is compiled once. RocksDB's C++, which only
# what is built with the feature `rocksdb` needs, takes about a quarter of an hour on two cores the first time.

CARGO ?= cargo
BUILT := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
ROCKSDB := --features raft-kv/rocksdb,raft-integration/rocksdb
LIBRARIES := raft raft-tcp raft-rocksdb
# What keeps the logs in `make demo`: file or rocksdb.
STORE ?= file
# What `make fuzz` runs, and how long each.
FUZZ := raft/fuzz
FUZZ_TARGETS := $(or $(TARGET),$(basename $(notdir $(wildcard $(FUZZ)/fuzz_targets/*.rs))))
FUZZ_SECONDS := $(or $(SECONDS),60)

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick bench sim fuzz doc lint features package fmt deps
ifeq ($(STORE),rocksdb)
demo: deps
endif

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

demo: ## three kv servers: load, kill the leader, check, change members (ARGS="--keep", STORE=rocksdb)
	@start=$$(date +%s); \
	$(CARGO) build --locked --release -p raft-kv $(if $(filter rocksdb,$(STORE)),--features rocksdb) && \
	$(BUILT)/release/kv demo --store $(STORE) $(ARGS) && \
	echo "make demo took $$(( $$(date +%s) - start )) s, with all that was compiled"

test: deps ## every test, example and README command, RocksDB's too
	@echo "compiles everything, RocksDB included: the first time about 25 minutes on two cores, and 8 for the tests"
	$(CARGO) test --locked --release --workspace $(ROCKSDB)

test-quick: ## the same without RocksDB, between two edits
	$(CARGO) test --locked --release --workspace --exclude raft-rocksdb

bench: deps ## measure, side by side with openraft, RocksDB and etcd (arguments: ARGS="--quick")
	$(CARGO) build --locked --release -p raft-integration --bins --features rocksdb
	$(BUILT)/release/bench $(ARGS)

sim: ## simulate more schedules of the core (SEEDS=20000)
	RAFT_SIM_SEEDS=$(or $(SEEDS),20000) $(CARGO) test --locked --release -p raft --lib consensus::sim -- --nocapture

# Without a sanitizer, which would need a nightly toolchain: there is no unsafe code here. What is found new stays
# in target/found, what fails in artifacts; the corpus changes only by hand.
fuzz: ## feed made-up bytes to what decodes bytes (TARGET=log_segment, SECONDS=60 for each)
	@missing=""; command -v c++ >/dev/null || missing=" g++"; \
	command -v cargo-fuzz >/dev/null || missing="$$missing cargo-fuzz (cargo install --locked cargo-fuzz)"; \
	[ -z "$$missing" ] || { echo "missing:$$missing"; exit 1; }
	@set -e; for target in $(FUZZ_TARGETS); do \
	  found=$(FUZZ)/target/found/$$target; \
	  mkdir -p $$found $(FUZZ)/regressions/$$target; \
	  $(CARGO) fuzz run --fuzz-dir $(FUZZ) -s none $$target $$found $(FUZZ)/corpus/$$target $(FUZZ)/regressions/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) -len_control=0 -timeout=10 -rss_limit_mb=512 -print_final_stats=1; \
	done

doc: deps ## build the documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --release --workspace --no-deps $(ROCKSDB)

lint: deps ## format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path $(FUZZ)/Cargo.toml --check
	$(CARGO) clippy --locked --release --workspace --all-targets $(ROCKSDB) -- -D warnings
	$(CARGO) clippy --locked --release -p raft-kv -p raft-integration --all-targets -- -D warnings
	$(MAKE) --no-print-directory features

# Not raft-rocksdb, which has no features: clippy has just seen it.
features: ## clippy on the libraries with no features, each alone, and all
	@set -e; for crate in raft raft-tcp; do \
	  names=$$(sed -n '/^\[features\]/,/^\[[^f]/s/^\([a-z][a-z0-9_-]*\) *=.*/\1/p' $$crate/Cargo.toml); \
	  for set in --no-default-features $$(printf -- '--features=%s ' $$names) --all-features; do \
	    case $$set in --features=) continue;; esac; \
	    echo "$$crate $$set"; \
	    $(CARGO) clippy --locked --release --quiet --lib -p $$crate $$set -- -D warnings; \
	  done; \
	done

package: ## pack what would be published, and look into it
	@set -e; for crate in $(LIBRARIES); do \
	  files=$$($(CARGO) package --locked --allow-dirty --quiet --list -p $$crate 2>/dev/null); \
	  for file in README.md LICENSE-MIT LICENSE-APACHE src/lib.rs; do \
	    echo "$$files" | grep -qx $$file || { echo "the package $$crate has no $$file"; exit 1; }; \
	  done; \
	done
	$(CARGO) package --locked --allow-dirty --no-verify $(addprefix -p ,$(LIBRARIES))

fmt: ## format the code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path $(FUZZ)/Cargo.toml

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
