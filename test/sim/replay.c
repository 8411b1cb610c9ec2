/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Replays traces of vehicles as a live feed against a cluster of fleet.
 *
 *	  replay [options] DIR/nodes < traces
 *
 * Traces are lines "vehicle,t,lat,lon,occ", sorted by t (Unix seconds); occ is
 * 1 while a passenger is on board.  See sim.h for how the work is shared out,
 * and usage() for the options.
 *
 * What it found out goes to stdout as key=value lines, progress goes to stderr.
 * Settings for its sessions are given in PGOPTIONS.  The exit status is 0 when
 * the whole feed was read, also if calls were given up: replay.failed counts
 * those.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/replay.c
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

#define HASH_SIZE		65536
#define BAR_LEN			24

typedef struct Options
{
	const char *nodes;
	double		speedup;		/* 0: as fast as possible */
	int			nworkers;
	double		retry_for;
	bool		with_rides;
	const char *events;
	const char *tracks;
	const char *rides;
} Options;

/* Where the feed is; the progress thread reads the atomic ones. */
typedef struct Feed
{
	SimVehicle *vehicles[HASH_SIZE];
	int			nvehicles;
	long		lines;
	long long	first_t;
	_Atomic long long t;		/* simulated time */
	_Atomic long long bytes;	/* read so far */
	long long	total_bytes;	/* 0: not known */
	double		started;
} Feed;

/* A thread of its own, for the feed stands still while a node is down. */
typedef struct Progress
{
	const Feed *feed;
	const SimWorker *workers;
	int			nworkers;
	bool		terminal;
	double		last;
	long		last_fixes;
	_Atomic bool stop;
	pthread_t	thread;
} Progress;

static void
usage(void)
{
	fprintf(stderr,
			"usage: replay [options] NODES < traces\n"
			"  NODES            file with lines \"node host port dbname user\"\n"
			"  --speedup=N      N simulated seconds a second; 0 (default): as fast as possible\n"
			"  --workers=N      threads, each with a connection to every node (default 8)\n"
			"  --retry-for=S    seconds before a call is given up (default 60)\n"
			"  --no-rides       report fixes only\n"
			"  --events=FILE    write handoffs: vehicle,ride,t,lon,lat,from,to\n"
			"  --tracks=FILE    write fixes that were taken: vehicle,t,lon,lat\n"
			"  --rides=FILE     write status changes of rides: ride,status\n");
}

static bool
parse_number(const char *text, double low, double high, double *value)
{
	char	   *end;

	*value = strtod(text, &end);
	if (*text != '\0' && *end == '\0' && *value >= low && *value <= high)
		return true;
	fprintf(stderr, "replay: \"%s\" is not a number from %g to %g\n", text, low, high);
	return false;
}

static bool
set_option(Options *options, int c)
{
	double		number;

	switch (c)
	{
		case 's':
			return parse_number(optarg, 0, 1e6, &options->speedup);
		case 'w':
			if (!parse_number(optarg, 1, SIM_MAX_WORKERS, &number))
				return false;
			options->nworkers = (int) number;
			return true;
		case 'r':
			return parse_number(optarg, 0, 86400, &options->retry_for);
		case 'n':
			options->with_rides = false;
			return true;
		case 'e':
			options->events = optarg;
			return true;
		case 't':
			options->tracks = optarg;
			return true;
		case 'i':
			options->rides = optarg;
			return true;
	}
	return false;
}

static bool
parse_options(Options *options, int argc, char **argv)
{
	static const struct option longopts[] = {
		{"speedup", required_argument, NULL, 's'},
		{"workers", required_argument, NULL, 'w'},
		{"retry-for", required_argument, NULL, 'r'},
		{"no-rides", no_argument, NULL, 'n'},
		{"events", required_argument, NULL, 'e'},
		{"tracks", required_argument, NULL, 't'},
		{"rides", required_argument, NULL, 'i'},
		{NULL, 0, NULL, 0}
	};
	int			c;

	memset(options, 0, sizeof(*options));
	options->nworkers = 8;
	options->retry_for = 60;
	options->with_rides = true;
	while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1)
		if (!set_option(options, c))
			return false;
	if (optind != argc - 1)
		return false;
	options->nodes = argv[optind];
	return true;
}

static unsigned
hash_name(const char *name)
{
	unsigned	h = 2166136261u;

	for (; *name != '\0'; name++)
		h = (h ^ (unsigned char) *name) * 16777619u;
	return h % HASH_SIZE;
}

/* The vehicle of that name; new ones are dealt to the workers in turn. */
static SimVehicle *
find_vehicle(Feed *feed, const char *id, int nworkers)
{
	SimVehicle **chain = &feed->vehicles[hash_name(id)];
	SimVehicle *v;

	for (v = *chain; v != NULL; v = v->next)
		if (strcmp(v->id, id) == 0)
			return v;

	v = calloc(1, sizeof(SimVehicle));
	if (v == NULL)
	{
		fprintf(stderr, "replay: out of memory\n");
		exit(1);
	}
	snprintf(v->id, sizeof(v->id), "%s", id);
	v->node = SIM_NOWHERE;
	v->worker = feed->nvehicles++ % nworkers;
	v->next = *chain;
	*chain = v;
	return v;
}

/* One line of the feed; false when it is none. */
static bool
parse_line(const char *line, char *id, SimFix *fix)
{
	int			occ;

	if (sscanf(line, "%63[^,],%lld,%lf,%lf,%d", id, &fix->t, &fix->lat,
			   &fix->lon, &occ) != 5)
		return false;
	fix->occupied = occ != 0;
	return true;
}

static void
start_thread(pthread_t *thread, void *(*start) (void *), void *arg)
{
	if (pthread_create(thread, NULL, start, arg) != 0)
	{
		fprintf(stderr, "replay: cannot start a thread\n");
		exit(1);
	}
}

static long
total(const Progress *progress, SimCounter counter)
{
	long		sum = 0;
	int			i;

	for (i = 0; i < progress->nworkers; i++)
		sum += progress->workers[i].stats.counters[counter];
	return sum;
}

static void
print_progress(Progress *progress)
{
	const Feed *feed = progress->feed;
	double		now = sim_now();
	long		fixes = total(progress, SIM_FIXES);
	double		rate = (double) (fixes - progress->last_fixes) / (now - progress->last);
	double		share = feed->total_bytes > 0 ?
		(double) feed->bytes / (double) feed->total_bytes : 0;
	time_t		t = (time_t) feed->t;
	struct tm	tm;
	char		when[32];
	char		bar[BAR_LEN + 1];
	int			i;

	gmtime_r(&t, &tm);
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	for (i = 0; i < BAR_LEN; i++)
		bar[i] = i < (int) (share * BAR_LEN) ? '#' : '.';
	bar[BAR_LEN] = '\0';
	fprintf(stderr, "%s[%s] %3d%% %6.0f fixes/s  handoffs %ld  errors %ld  failed %ld  %s UTC%s",
			progress->terminal ? "\r" : "", bar, (int) (share * 100), rate,
			total(progress, SIM_HANDOFFS), total(progress, SIM_ERRORS),
			total(progress, SIM_FAILED), when,
			progress->terminal ? "\033[K" : "\n");
	progress->last = now;
	progress->last_fixes = fixes;
}

static void *
progress_main(void *arg)
{
	Progress   *progress = arg;
	double		every = progress->terminal ? 0.25 : 5;

	while (!progress->stop)
	{
		sim_sleep(0.05);
		if (sim_now() >= progress->last + every && progress->feed->t > 0)
			print_progress(progress);
	}
	if (progress->terminal)
		fprintf(stderr, "\r\033[K");
	return NULL;
}

static void
start_progress(Progress *progress, const Feed *feed, const SimWorker *workers,
			   int nworkers)
{
	progress->feed = feed;
	progress->workers = workers;
	progress->nworkers = nworkers;
	progress->terminal = isatty(STDERR_FILENO);
	progress->last = feed->started;
	start_thread(&progress->thread, progress_main, progress);
}

static void
stop_progress(Progress *progress)
{
	progress->stop = true;
	pthread_join(progress->thread, NULL);
}

/* Wait until the wall clock has come to the simulated time t. */
static void
wait_for_time(const Options *options, const Feed *feed, long long t)
{
	double		due;
	double		now = sim_now();

	if (options->speedup <= 0)
		return;
	due = feed->started + (double) (t - feed->first_t) / options->speedup;
	if (due > now)
		sim_sleep(due - now);
}

/* Read all traces and hand them to the workers; false on a bad line. */
static bool
run_feed(const Options *options, Feed *feed, SimWorker *workers)
{
	char		line[256];
	char		id[SIM_NAME_LEN];

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		SimQueueItem item;

		feed->lines++;
		feed->bytes += (long long) strlen(line);
		if (!parse_line(line, id, &item.fix) || item.fix.t < feed->t)
		{
			fprintf(stderr, "replay: line %ld is no fix, or out of order: %s",
					feed->lines, line);
			return false;
		}
		if (feed->lines == 1)
			feed->first_t = item.fix.t;
		wait_for_time(options, feed, item.fix.t);
		feed->t = item.fix.t;
		item.vehicle = find_vehicle(feed, id, options->nworkers);
		sim_queue_put(&workers[item.vehicle->worker].queue, &item);
	}
	return !ferror(stdin);
}

static void *
worker_main(void *arg)
{
	SimWorker  *worker = arg;
	SimQueueItem item;
	int			i;

	while (sim_queue_get(&worker->queue, &item))
		sim_vehicle_fix(worker, item.vehicle, &item.fix);
	for (i = 0; i < worker->cluster->nnodes; i++)
		sim_link_close(&worker->links[i]);
	return NULL;
}

static SimWorker *
start_workers(const Options *options, const SimCluster *cluster, const SimOutput *output)
{
	SimWorker  *workers = calloc((size_t) options->nworkers, sizeof(SimWorker));
	int			i;
	int			n;

	if (workers == NULL)
	{
		fprintf(stderr, "replay: out of memory\n");
		exit(1);
	}
	for (i = 0; i < options->nworkers; i++)
	{
		SimWorker  *w = &workers[i];

		w->cluster = cluster;
		w->output = output;
		w->retry_for = options->retry_for;
		w->with_rides = options->with_rides;
		for (n = 0; n < cluster->nnodes; n++)
			sim_link_init(&w->links[n], cluster, n);
		sim_queue_init(&w->queue);
		start_thread(&w->thread, worker_main, w);
	}
	return workers;
}

/* Is every node there, and does it speak fleet?  Says so if not. */
static bool
check_cluster(const SimCluster *cluster)
{
	static const char *const somewhere[] = {"0", "0"};
	bool		ok = true;
	int			i;

	for (i = 0; i < cluster->nnodes; i++)
	{
		SimLink		link;
		SimReply	reply;

		sim_link_init(&link, cluster, i);
		sim_link_try(&link, SIM_REGION_OF, somewhere, &reply);
		if (reply.verdict != SIM_DONE)
		{
			fprintf(stderr, "replay: %s\n", reply.message);
			ok = false;
		}
		sim_link_close(&link);
	}
	return ok;
}

/* Let the workers empty their queues, and wait for them. */
static void
finish_workers(SimWorker *workers, int nworkers)
{
	int			i;

	for (i = 0; i < nworkers; i++)
		sim_queue_close(&workers[i].queue);
	for (i = 0; i < nworkers; i++)
		pthread_join(workers[i].thread, NULL);
}

/* Open a file to write; NULL when nobody asked for it. */
static FILE *
open_output(const char *path)
{
	FILE	   *file;

	if (path == NULL)
		return NULL;
	file = fopen(path, "w");
	if (file == NULL)
	{
		perror(path);
		exit(1);
	}
	return file;
}

static bool
close_output(FILE *file)
{
	return file == NULL || (!ferror(file) && fclose(file) == 0);
}

static void
start_feed(Feed *feed)
{
	struct stat st;

	feed->started = sim_now();
	if (fstat(STDIN_FILENO, &st) == 0 && S_ISREG(st.st_mode))
		feed->total_bytes = (long long) st.st_size;
}

int
main(int argc, char **argv)
{
	static SimCluster cluster;
	static Feed feed;
	static SimStats stats;
	Options		options;
	SimOutput	output;
	Progress	progress = {0};
	SimWorker  *workers;
	double		seconds;
	bool		ok;
	int			i;

	if (!parse_options(&options, argc, argv))
	{
		usage();
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!sim_cluster_read(&cluster, options.nodes) || !check_cluster(&cluster))
		return 1;
	output.events = open_output(options.events);
	output.tracks = open_output(options.tracks);
	output.rides = open_output(options.rides);

	start_feed(&feed);
	workers = start_workers(&options, &cluster, &output);
	start_progress(&progress, &feed, workers, options.nworkers);
	ok = run_feed(&options, &feed, workers);
	finish_workers(workers, options.nworkers);
	seconds = sim_now() - feed.started;
	stop_progress(&progress);
	for (i = 0; i < options.nworkers; i++)
		sim_stats_merge(&stats, &workers[i].stats);
	free(workers);

	sim_stats_print(&stats, stdout);
	printf("replay.simulated_seconds=%lld\n", (long long) feed.t - feed.first_t);
	printf("replay.seconds=%.1f\n", seconds);
	printf("replay.fixes_per_s=%.0f\n", (double) stats.counters[SIM_FIXES] / seconds);
	free(stats.latencies);
	ok = close_output(output.events) && ok;
	ok = close_output(output.tracks) && ok;
	ok = close_output(output.rides) && ok;
	return ok ? 0 : 1;
}
