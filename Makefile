# fleet: build, install, test, demo.  Copyright (c) 2026, the fleet authors
#
#   make, make install    the extension, in the usual PGXS way
#   make FAULTS=1         the test build, with fault points; its objects are kept apart
#   make UBSAN=1, COVERAGE=1   the same with a sanitizer, or counting lines
#   make demo             three servers, real crossings (test/sim/demo.sh)
#   make test             every suite; make test-unit, test-regress, ... one of them
#   make coverage         which lines of src/ the tests execute; fails below 92 %
#   make test-ubsan       the tests with the undefined behaviour sanitizer
#   make fuzz, make chaos SECONDS=60 SEED=n: malformed input; everything at random
#   make crash-matrix     make everything fail once, write docs/crash-matrix.md anew
#   make bench-geo        the geofence test beside PostGIS
#   make bench-fence      what fences cost a position report
#   make bench-drift      whole tables compared, ROWS=1000000
#   make bench-decode     the change stream beside test_decoding, ROWS=500000
#   make bench-handoff    the handoff beside the same by hand, SECONDS=15 CLIENTS=8
#   make bench-history    the history of fixes alone, ROWS=2000000
#   make bench-reads      reads over all regions beside plain SQL, SECONDS=5 ROWS=100000 CLIENTS=8
#   make bench-ingest     position reports beside a plain upsert, SECONDS=5 VEHICLES=156000 CLIENTS=8
#   make bench-nearest    the nearest vehicles beside PostGIS, SECONDS=5 CLIENTS=8
#   make bench-replica    the global replica beside native replication, SECONDS=20
#   make bench-snapshot   snapshots of a region: time and bytes, ROWS=156000
#
# V=1 shows the commands; WERROR= (empty) lets a compiler with newer warnings
# build it.

ifndef PG_CONFIG
PG_CONFIG := $(shell test/setup.sh --pg-config)
endif
export PG_CONFIG

EXTENSION = fleet
DATA = fleet--1.0.sql

BUILD = $(if $(COVERAGE),coverage,$(if $(UBSAN),ubsan,$(if $(FAULTS),faults,normal)))
OBJDIR = build/$(BUILD)
SOURCES = $(sort $(wildcard src/*.c src/*/*.c))
OBJS = $(patsubst src/%.c,$(OBJDIR)/%.o,$(SOURCES))
LIBRARY = $(OBJDIR)/fleet

# MODULES and not MODULE_big, because only MODULES installs a library that is
# not in the top folder: so the two builds never overwrite each other.
MODULES = $(LIBRARY)
EXTRA_CLEAN = build

Q = $(if $(V),,@)
WERROR = -Werror
PG_CPPFLAGS = -Isrc -I$(libpq_srcdir) $(if $(FAULTS),-DFLEET_FAULT_POINTS) \
	$(if $(COVERAGE),-DFLEET_COVERAGE)
PG_CFLAGS = -Wall -Wextra $(WERROR) -Wdeclaration-after-statement \
	-Wmissing-prototypes -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

# One finding ends the process, and with it the test.
SANITIZE = -fsanitize=undefined -fno-sanitize-recover=all
INSTRUMENT = $(if $(COVERAGE),--coverage,$(if $(UBSAN),$(SANITIZE)))
PG_CFLAGS += $(INSTRUMENT) $(if $(COVERAGE),-O0)
PG_LDFLAGS += $(INSTRUMENT)

# No bitcode: clang would compile everything once more, only so that the JIT
# could inline functions of ours, and none is small and hot enough for that.
override with_llvm = no

SUITES = unit regress isolation pgtap tap ubsan fuzz data check

.DEFAULT_GOAL = all
.PHONY: FORCE demo crash-matrix bench-decode bench-drift bench-fence bench-geo bench-handoff bench-history bench-ingest bench-nearest bench-reads bench-replica bench-snapshot coverage fuzz chaos test $(addprefix test-,$(SUITES))

PGXS := $(if $(PG_CONFIG),$(shell $(PG_CONFIG) --pgxs 2>/dev/null))

ifneq ($(wildcard $(PGXS)),)
include $(PGXS)

$(LIBRARY)$(DLSUFFIX): $(OBJS) $(OBJDIR)/objects
	@echo "  LINK $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(LDFLAGS_SL) -shared -o $@ $(OBJS) $(SHLIB_LINK) $(libpq)

# The list of objects, so that a source that is gone is linked no longer.
$(OBJDIR)/objects: FORCE
	@mkdir -p $(@D); echo '$(OBJS)' | cmp -s - $@ || echo '$(OBJS)' >$@
FORCE:

$(OBJDIR)/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

-include $(OBJS:.o=.d)

# PGXS would look for the library under its path in the build folder.
uninstall: uninstall-library
.PHONY: uninstall-library
uninstall-library:
	rm -f '$(DESTDIR)$(pkglibdir)/fleet$(DLSUFFIX)'

else

.PHONY: all install clean
all install:
	@echo "fleet: no PostgreSQL development files found; run test/setup.sh, or set PG_CONFIG" >&2; exit 1
clean:
	rm -rf build

endif

# These install what the machine lacks (test/setup.sh), then build by
# themselves: on a bare machine there is no PGXS yet when this file is read.
test:
	+@test/run.sh $(SUITES)

$(addprefix test-,$(SUITES)): test-%:
	+@test/run.sh $*

# SECONDS is how long, SEED what: the same seed does the same again.
chaos:
	+@CHAOS_SECONDS='$(or $(SECONDS),60)' SEED='$(SEED)' TESTS=008_random test/run.sh tap

fuzz:
	+@FUZZ_SECONDS='$(or $(SECONDS),60)' SEED='$(SEED)' test/run.sh fuzz

coverage:
	+@test/coverage.sh

# TRACES, ONLY, CABS, HOURS, SPEEDUP and SEED, given to make or in the
# environment, reach the script.
demo:
	+@test/sim/demo.sh

crash-matrix:
	+@new=$$(mktemp) && chmod 666 "$$new" && \
	    { TESTS=009_crash_matrix FLEET_WRITE_MATRIX="$$new" test/run.sh tap; rc=$$?; } && \
	    { [ ! -s "$$new" ] || cat "$$new" >docs/crash-matrix.md; rm -f "$$new"; exit $$rc; }

bench-fence:
	+@test/bench/fence.sh

bench-geo:
	+@test/bench/geo.sh

bench-decode:
	+@BENCH_ROWS='$(ROWS)' test/bench/decode.sh

bench-drift:
	+@BENCH_ROWS='$(ROWS)' test/bench/drift.sh

bench-handoff:
	+@BENCH_SECONDS='$(SECONDS)' BENCH_CLIENTS='$(CLIENTS)' test/bench/handoff.sh

bench-ingest:
	+@BENCH_SECONDS='$(SECONDS)' BENCH_VEHICLES='$(VEHICLES)' BENCH_CLIENTS='$(CLIENTS)' test/bench/ingest.sh

bench-nearest:
	+@BENCH_SECONDS='$(SECONDS)' BENCH_CLIENTS='$(CLIENTS)' test/bench/nearest.sh

bench-history:
	+@BENCH_ROWS='$(ROWS)' test/bench/history.sh

bench-reads:
	+@BENCH_SECONDS='$(SECONDS)' BENCH_ROWS='$(ROWS)' BENCH_CLIENTS='$(CLIENTS)' test/bench/reads.sh

bench-replica:
	+@BENCH_SECONDS='$(SECONDS)' test/bench/replica.sh

bench-snapshot:
	+@BENCH_ROWS='$(ROWS)' test/bench/snapshot.sh
