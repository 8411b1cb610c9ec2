/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Fault points: wait, fail or crash at a named place, in test builds only.
 *
 * The setting fleet.fault holds a list "point=action,...".  Actions:
 *
 *	error	raise an error (only where one may be raised)
 *	kill	SIGKILL this backend; the postmaster restarts the server
 *	crash	SIGKILL the postmaster too: the whole server is gone
 *	exit	end this session as pg_terminate_backend would
 *	wait	until the file fleet_go_<point> appears in the data directory
 *	on		nothing here; read by FLEET_FAULT_ON to switch a rule off
 *
 * Each point that acts is written to the server's log first, which is how a
 * test knows that it was reached.
 *
 * Most points are marked where they are.  Three are reached by a participant's
 * backend: "preparing" in PREPARE TRANSACTION before anything of it is durable,
 * "prepared" and "committed" when it, or COMMIT PREPARED, is durable and not yet
 * replied to.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/fault.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"

#ifdef FLEET_FAULT_POINTS

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#ifdef FLEET_COVERAGE
extern void __gcov_dump(void);

#define BEFORE_KILL()	__gcov_dump()
#else
#define BEFORE_KILL()	((void) 0)
#endif

/* A wait gives up after this long, so that a broken test still ends. */
#define FAULT_WAIT_MAX_MS	60000

static char *fault_setting = NULL;

static void
on_xact_event(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE)
		fleet_base_fault_reach("preparing", true);
	else if (event == XACT_EVENT_PREPARE)
		fleet_base_fault_reach("prepared", false);
	else if (event == XACT_EVENT_COMMIT && debug_query_string != NULL &&
			 strncmp(debug_query_string, "COMMIT PREPARED", 15) == 0)
		fleet_base_fault_reach("committed", false);
}

void
fleet_base_fault_init(void)
{
	RegisterXactCallback(on_xact_event, NULL);
	DefineCustomStringVariable("fleet.fault",
							   "Fault points that act, as point=action,...; exists in test builds only.",
							   NULL, &fault_setting, "", PGC_SUSET, 0,
							   NULL, NULL, NULL);
}

/* Copy the action of a point; false where none is set. */
static bool
find_action(const char *point, char *action, Size size)
{
	Size		len = strlen(point);
	const char *p = fault_setting;

	while (p != NULL && *p != '\0')
	{
		Size		item = strcspn(p, ",");

		if (item > len && strncmp(p, point, len) == 0 && p[len] == '=')
		{
			strlcpy(action, p + len + 1, Min(size, item - len));
			return true;
		}
		p += item;
		if (*p == ',')
			p++;
	}
	return false;
}

static void
wait_for_go(const char *point, bool may_throw)
{
	char		path[MAXPGPATH];
	struct stat st;

	snprintf(path, sizeof(path), "%s/fleet_go_%s", DataDir, point);
	for (int ms = 0; ms < FAULT_WAIT_MAX_MS && stat(path, &st) != 0; ms += 10)
	{
		pg_usleep(10 * 1000L);
		if (may_throw)
			CHECK_FOR_INTERRUPTS();
	}
}

void
fleet_base_fault_reach(const char *point, bool may_throw)
{
	char		action[32];

	if (!find_action(point, action, sizeof(action)))
		return;
	ereport(LOG,
			(errmsg("fleet fault point \"%s\" reached, action \"%s\"", point, action)));
	if (strcmp(action, "wait") == 0)
		wait_for_go(point, may_throw);
	else if (strcmp(action, "kill") == 0)
	{
		BEFORE_KILL();
		kill(MyProcPid, SIGKILL);
	}
	else if (strcmp(action, "crash") == 0)
	{
		BEFORE_KILL();
		kill(PostmasterPid, SIGKILL);
		kill(MyProcPid, SIGKILL);
	}
	else if (strcmp(action, "exit") == 0)
		kill(MyProcPid, SIGTERM);
	else if (strcmp(action, "error") == 0 && may_throw)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fleet fault point \"%s\"", point)));
	if (may_throw)
		CHECK_FOR_INTERRUPTS();
}

bool
fleet_base_fault_is_on(const char *point)
{
	char		action[32];

	return find_action(point, action, sizeof(action)) && strcmp(action, "on") == 0;
}

#endif							/* FLEET_FAULT_POINTS */
