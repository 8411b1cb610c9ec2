--
-- Distributed commit: outcomes, what is in doubt, the resolver, the operator
--
\set SHOW_CONTEXT never
\c fleet_w
-- The resolver rests, so that what it would finish stays to be seen.
ALTER SYSTEM SET fleet.resolve_interval = '1min';
SELECT pg_reload_conf(), pg_sleep(2) IS NOT NULL AS waited;
\c fleet_w
SELECT fleet.incarnation() AS incarnation \gset
SELECT format('fleet:node_w:%s:7:00000000000000a1', fleet.incarnation()) AS mine,
	'fleet:node_w:1.00000000:7:00000000000000a2' AS older \gset

-- What the coordinator says.
SELECT fleet.outcomes(ARRAY[:'mine', :'mine' || ':0', :'mine' || ':9999']) AS no_record;
SELECT fleet.outcomes(ARRAY[:'older', :'older' || ':0']) AS other_incarnation;
SELECT fleet.outcomes('{}'), fleet.outcomes(NULL) IS NULL AS null_is_null;
BEGIN;
INSERT INTO fleet.decisions (dtxid, branch, region, kind) VALUES (:'mine', 0, 'east', 'map'), (:'older', 1, 'east', 'map');
SELECT fleet.outcomes(ARRAY[:'mine', :'mine' || ':0', :'older' || ':7']) AS record;
ROLLBACK;
SELECT gid, r FROM (VALUES (''), ('x'), ('fleet:'), ('fleet:node_w:1.0:7:00000000000000a1:'), ('fleet:node_w:1.0:7:a1'),
	('fleet:node_w:1.0:-7:00000000000000a1'), ('fleet:node_w:1.0:7:00000000000000A1'), ('fleet:node_w:1.0:7:00000000000000a1:10000'),
	('fleet:node_w:1.0:7:00000000000000a1:0:0'), (' fleet:node_w:1.0:7:00000000000000a1'),
	('fleet:node_e:1.0:7:00000000000000a1:0'), ('fleet::1.0:7:00000000000000a1:0')) AS g(gid),
	test.raised(format('SELECT fleet.outcomes(ARRAY[%L])', gid)) AS r;
SELECT * FROM test.raised($$SELECT fleet.outcomes(ARRAY[NULL])$$);
SELECT test.state_of(format('SELECT fleet.outcomes(ARRAY[%L])', repeat('x', 1000))) AS long;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fleet.outcomes('{}');
ROLLBACK;

-- While the transaction runs, and after it.
SELECT fleet.request_ride('T-' || n, 'C', 0.5, 0.5) FROM generate_series(1, 4) AS n;
BEGIN;
SELECT fleet.handoff('T-1', 'east');
SELECT dtxid, fleet.is_running(dtxid), fleet.outcomes(ARRAY[dtxid || ':' || branch]) AS outcome, branch, region, kind,
	jsonb_array_length(request->'payload') AS rows, request->'payload'->0->>'key' AS key, fleet.branch_applied(dtxid) AS applied_by_us
	FROM fleet.decisions, jsonb_array_elements(fleet.branch_request(dtxid, branch)) AS request WHERE fleet.is_running(dtxid) \gset now_
SELECT :'now_is_running' AS running, :'now_outcome' AS outcome, :now_branch AS branch, :'now_region' AS region, :'now_kind' AS kind,
	:now_rows AS rows, :'now_key' AS key, :'now_applied_by_us' AS applied_by_us;
SELECT fleet.ask('east', format('SELECT fleet.branch_applied(%L)', :'now_dtxid')) AS in_its_branch;
ROLLBACK;
SELECT fleet.is_running(:'now_dtxid'), fleet.outcomes(ARRAY[:'now_dtxid']),
	fleet.ask('east', format('SELECT fleet.branch_applied(%L)', :'now_dtxid')) AS there;
BEGIN;
SELECT fleet.handoff('T-1', 'east');
SELECT dtxid FROM fleet.decisions WHERE fleet.is_running(dtxid) \gset
COMMIT;
SELECT fleet.is_running(:'dtxid'), fleet.outcomes(ARRAY[:'dtxid']) IN ('{commit}', '{abort}') AS decided, fleet.branch_applied(:'dtxid') AS here,
	fleet.ask('east', format('SELECT fleet.branch_applied(%L)', :'dtxid')) AS there,
	fleet.ask('north', format('SELECT fleet.branch_applied(%L)', :'dtxid')) AS elsewhere;
SELECT fleet.is_running(''), fleet.is_running('x'), fleet.is_running(NULL), fleet.branch_applied(''), fleet.branch_applied(NULL);

-- In doubt as a participant.
SELECT count(*) AS in_doubt FROM fleet.in_doubt WHERE role = 'participant';
BEGIN;
SELECT fleet.set_ride_status('T-2', 'EN_ROUTE');
PREPARE TRANSACTION 'fleet:nobody:1.00000000:7:00000000000000b1:0';
BEGIN;
SELECT fleet.set_ride_status('T-3', 'EN_ROUTE');
PREPARE TRANSACTION 'fleet:nobody:1.00000000:7:00000000000000b2:0';
SELECT gid, role, peer, state, age BETWEEN '0 s' AND '1 h' AS age, attempts, last_error, next_try FROM fleet.in_doubt
	WHERE role = 'participant' ORDER BY gid;
SELECT * FROM test.raised($$SELECT fleet.resolve('fleet:nobody:1.00000000:7:00000000000000b1:0', 'rollback')$$);
SELECT * FROM test.raised($$SELECT fleet.resolve('fleet:nobody:1.00000000:7:00000000000000b3:0', 'abort')$$);
SELECT * FROM test.raised($$SELECT fleet.resolve('', 'abort')$$);
SELECT fleet.resolve(NULL, 'abort') IS NULL AS null_gid, fleet.resolve('x', NULL) IS NULL AS null_outcome;
SELECT fleet.resolve('fleet:nobody:1.00000000:7:00000000000000b1:0', 'abort');
SELECT fleet.resolve('fleet:nobody:1.00000000:7:00000000000000b2:0', 'commit');
SELECT count(*) AS in_doubt FROM fleet.in_doubt WHERE role = 'participant';
SELECT ride_id, status FROM fleet.rides WHERE ride_id LIKE 'T-%' AND region = 'west' ORDER BY ride_id;
-- Not what its coordinator says.
\c fleet_e
SELECT fleet.request_ride('TE-' || n, 'C', 1.5, 0.5) FROM generate_series(1, 4) AS n;
\set gid :mine ':0'
BEGIN;
SELECT fleet.set_ride_status('TE-1', 'EN_ROUTE');
PREPARE TRANSACTION :'gid';
SELECT replace(r, :'gid', 'GID') FROM test.raised(format('SELECT fleet.resolve(%L, %L)', :'gid', 'commit')) AS r;
SELECT fleet.resolve(:'gid', 'abort');
SELECT ride_id, status FROM fleet.rides WHERE ride_id = 'TE-1' AND region = 'east';

-- In doubt as a coordinator.
\c fleet_w
INSERT INTO fleet.decisions (dtxid, branch, region, kind, decided_at) VALUES (:'mine', 3, 'east', 'map', now() - interval '1 h');
SELECT replace(gid, :'mine', 'MINE') AS gid, role, peer, state, age > '59 min' AS age, attempts, last_error, next_try FROM fleet.in_doubt
	WHERE role = 'coordinator';
SELECT replace(r, :'mine', 'MINE') FROM test.raised(format('SELECT fleet.resolve(%L, %L)', :'mine' || ':3', 'abort')) AS r;
SELECT fleet.resolve(:'mine' || ':3', 'commit');
SELECT count(*) AS in_doubt FROM fleet.in_doubt WHERE role = 'coordinator';
SELECT count(*) AS records FROM fleet.decisions WHERE dtxid = :'mine';

-- The resolver.  Prepared on east by this node, twice: once without a record ...
\c fleet_e
\set gid_a :mine ':0'
\set gid_b 'fleet:node_w:' :incarnation ':8:00000000000000c1:1'
BEGIN;
SELECT fleet.set_ride_status('TE-2', 'EN_ROUTE');
PREPARE TRANSACTION :'gid_a';
BEGIN;
SELECT fleet.set_ride_status('TE-3', 'EN_ROUTE');
SET LOCAL ROLE fleet_node;		-- as a branch is: then the coordinator may finish it, too
PREPARE TRANSACTION :'gid_b';
-- ... of a coordinator that was promoted since ...
BEGIN;
SELECT fleet.set_ride_status('TE-4', 'EN_ROUTE');
PREPARE TRANSACTION 'fleet:node_w:1.00000000:9:00000000000000d1:1';
-- ... and once with one.
\c fleet_w
INSERT INTO fleet.decisions (dtxid, branch, region, kind) VALUES ('fleet:node_w:' || :'incarnation' || ':8:00000000000000c1', 1, 'east', 'map');
ALTER SYSTEM RESET fleet.resolve_interval;
SELECT pg_reload_conf();
\c fleet_e
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_prepared_xacts);
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
SELECT count(*) AS prepared FROM pg_prepared_xacts;
SELECT ride_id, status FROM fleet.rides WHERE ride_id LIKE 'TE-%' AND region = 'east' ORDER BY ride_id;
\c fleet_w
SELECT test.settle();
-- A coordinator that is on no map: it waits, and says why.
BEGIN;
SELECT fleet.set_ride_status('T-4', 'EN_ROUTE');
PREPARE TRANSACTION 'fleet:nobody:1.00000000:7:00000000000000e1:0';
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		EXIT WHEN EXISTS (SELECT FROM fleet.resolution);
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
SELECT gid, role, peer, state, attempts > 0 AS tried, last_error, next_try IS NOT NULL AS next_try FROM fleet.in_doubt;
SELECT fleet.resolve('fleet:nobody:1.00000000:7:00000000000000e1:0', 'commit');
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM fleet.resolution);
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
SELECT count(*) AS forgotten FROM fleet.resolution;
SELECT ride_id, status FROM fleet.rides WHERE ride_id LIKE 'T-%' AND region = 'west' ORDER BY ride_id;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- What a lost PREPARE is redone with does no harm where it was applied.
BEGIN;
SELECT fleet.handoff('T-2', 'east');
SELECT dtxid, fleet.branch_request(dtxid, branch) AS requests FROM fleet.decisions WHERE fleet.is_running(dtxid) \gset
COMMIT;
\c fleet_e
SELECT * FROM test.my_rides WHERE ride_id = 'T-2';
SELECT fleet.redo(:'dtxid', :'requests');
SELECT fleet.redo(:'dtxid', :'requests');
SELECT * FROM test.my_rides WHERE ride_id = 'T-2';
SELECT fleet.handoff('T-2', 'north');
SELECT fleet.redo(:'dtxid', :'requests');
SELECT * FROM test.my_rides WHERE ride_id = 'T-2';
SELECT * FROM fleet.verify() WHERE problems > 0;
-- Where it was not applied, it is made good: as if the branch had been lost.
\c fleet_w
BEGIN;
SELECT fleet.handoff('T-3', 'east');
SELECT dtxid, fleet.branch_request(dtxid, branch) AS requests FROM fleet.decisions WHERE fleet.is_running(dtxid) \gset
COMMIT;
SELECT test.settle();
\c fleet_e
SET session_replication_role = replica;
DELETE FROM fleet.local_rides WHERE ride_id = 'T-3';
RESET session_replication_role;
DELETE FROM fleet.handoff_log WHERE ride_id = 'T-3';
SELECT * FROM fleet.verify() WHERE problems > 0;
SELECT fleet.redo(:'dtxid', :'requests');
SELECT * FROM test.my_rides WHERE ride_id = 'T-3';
SELECT * FROM fleet.verify() WHERE problems > 0;

DELETE FROM fleet.rides WHERE region = 'east';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
SELECT test.settle();
\c fleet_w
DELETE FROM fleet.rides WHERE region = 'west';
SELECT test.settle();
SELECT * FROM fleet.verify();
