/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Counters of the replay, and the latencies of calls that handed off.
 *
 * Each worker counts for itself and the main thread adds up, so that nothing
 * is locked while the feed runs.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/stats.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "sim.h"

static const char *const counter_names[SIM_NCOUNTERS] = {
	[SIM_FIXES] = "fixes",
	[SIM_ACCEPTED] = "accepted",
	[SIM_STALE] = "stale",
	[SIM_IMPLAUSIBLE] = "implausible",
	[SIM_WAITING] = "waiting",
	[SIM_HANDOFFS] = "handoffs",
	[SIM_VEHICLES] = "vehicles",
	[SIM_RIDES_STARTED] = "rides_started",
	[SIM_RIDES_COMPLETED] = "rides_completed",
	[SIM_RIDES_OUTSIDE] = "rides_outside",
	[SIM_ERRORS] = "errors",
	[SIM_FAILED] = "failed",
};

void
sim_stats_add_latency(SimStats *stats, double ms)
{
	if (stats->nlatencies == stats->maxlatencies)
	{
		size_t		wanted = stats->maxlatencies == 0 ? 1024 : stats->maxlatencies * 2;
		double	   *grown = realloc(stats->latencies, wanted * sizeof(double));

		if (grown == NULL)
			return;				/* one sample less does no harm */
		stats->latencies = grown;
		stats->maxlatencies = wanted;
	}
	stats->latencies[stats->nlatencies++] = ms;
}

/* Add up; "from" gives its latencies away. */
void
sim_stats_merge(SimStats *into, SimStats *from)
{
	size_t		i;
	int			c;

	for (c = 0; c < SIM_NCOUNTERS; c++)
		into->counters[c] += from->counters[c];
	for (i = 0; i < from->nlatencies; i++)
		sim_stats_add_latency(into, from->latencies[i]);
	free(from->latencies);
	from->latencies = NULL;
	from->nlatencies = 0;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* nearest rank: the smallest value that is not below the share asked for */
static double
percentile(const SimStats *stats, double share)
{
	double		exact = share * (double) stats->nlatencies;
	size_t		rank = (size_t) exact;

	if ((double) rank < exact)
		rank++;
	if (rank < 1)
		rank = 1;
	return stats->latencies[rank - 1];
}

/* key=value lines; sorts the latencies */
void
sim_stats_print(SimStats *stats, FILE *out)
{
	int			c;

	for (c = 0; c < SIM_NCOUNTERS; c++)
		fprintf(out, "replay.%s=%ld\n", counter_names[c], (long) stats->counters[c]);

	fprintf(out, "replay.latency_ms.samples=%zu\n", stats->nlatencies);
	if (stats->nlatencies == 0)
		return;
	qsort(stats->latencies, stats->nlatencies, sizeof(double), compare_doubles);
	fprintf(out, "replay.latency_ms.min=%.1f\n", percentile(stats, 0));
	fprintf(out, "replay.latency_ms.p50=%.1f\n", percentile(stats, 0.50));
	fprintf(out, "replay.latency_ms.p75=%.1f\n", percentile(stats, 0.75));
	fprintf(out, "replay.latency_ms.p90=%.1f\n", percentile(stats, 0.90));
	fprintf(out, "replay.latency_ms.p95=%.1f\n", percentile(stats, 0.95));
	fprintf(out, "replay.latency_ms.p99=%.1f\n", percentile(stats, 0.99));
	fprintf(out, "replay.latency_ms.max=%.1f\n", percentile(stats, 1));
}
