-- fleet: the public contract: signatures, kinds, settings, rights, comments.
-- Copyright (c) 2026, the fleet authors
\set QUIET on
BEGIN;
SELECT no_plan();

-- The functions that people call: arguments, result, volatility, strictness,
-- whether PUBLIC and fleet_node may execute them.
CREATE TEMPORARY TABLE contract (name text, args text, result text, volatility "char", is_strict boolean, public boolean, node boolean);
INSERT INTO contract VALUES
	('init_node', 'name text', 'void', 'v', true, false, false),
	('node_name', '', 'text', 's', true, true, true),
	('incarnation', '', 'text', 's', true, true, true),
	('own_region', '', 'text', 's', true, true, true),
	('check_setup', '', 'void', 's', true, true, true),
	('add_region', 'name text, geofence public.geometry, conninfo text, capacity integer', 'bigint', 'v', false, false, false),
	('remove_region', 'name text', 'bigint', 'v', true, false, false),
	('set_geofence', 'name text, geofence public.geometry', 'bigint', 'v', false, false, false),
	('set_capacity', 'name text, capacity integer', 'bigint', 'v', false, false, false),
	('region_of', 'lon double precision, lat double precision', 'text', 's', true, true, true),
	('register_vehicle', 'vehicle_id text, lon double precision, lat double precision, status fleet.vehicle_status', 'text', 'v', false, true, true),
	('request_ride', 'ride_id text, customer_id text, lon double precision, lat double precision, vehicle_id text, fare numeric,'
		' end_lon double precision, end_lat double precision, at timestamp with time zone, idempotency_key text', 'text', 'v', false, true, true),
	('set_ride_status', 'ride_id text, status fleet.ride_status, vehicle_id text, at timestamp with time zone, idempotency_key text', 'void', 'v', false, true, true),
	('cancel_ride', 'ride_id text, at timestamp with time zone, idempotency_key text', 'void', 'v', false, true, true),
	('update_ride', 'ride_id text, changes jsonb, idempotency_key text', 'void', 'v', false, true, true),
	('report_fix', 'vehicle_id text, lon double precision, lat double precision, at timestamp with time zone, speed_kmh double precision,'
		' heading double precision, accuracy_m double precision, battery_pct double precision, altitude_m double precision,'
		' status fleet.vehicle_status', 'fleet.fix_result', 'v', false, true, true),
	('report_fixes', 'vehicle_ids text[], lons double precision[], lats double precision[], ats timestamp with time zone[], speeds_kmh double precision[],'
		' headings double precision[], accuracies_m double precision[], batteries_pct double precision[], altitudes_m double precision[],'
		' statuses fleet.vehicle_status[]', 'TABLE(number integer, vehicle_id text, outcome text, region text, epoch bigint, reason_sqlstate text,'
		' reason_message text, reason_detail text)', 'v', false, true, true),
	('ride_path', 'ride_id text', 'public.geometry', 'v', true, true, true),
	('vehicle_path', 'vehicle_id text, since timestamp with time zone, until timestamp with time zone', 'public.geometry', 'v', true, true, true),
	('path_fixes', 'kind text, key text, since timestamp with time zone, until timestamp with time zone',
		'TABLE(at timestamp with time zone, lon double precision, lat double precision)', 'v', false, true, true),
	('make_history_partitions', 'days integer', 'TABLE(part text, outcome text, fixes bigint)', 'v', true, false, false),
	('drop_old_history', '', 'TABLE(part text, outcome text, fixes bigint)', 'v', true, false, false),
	('set_crossing_rule', 'region text, distance_m double precision, dwell_s double precision, max_speed_mps double precision', 'void', 'v', false, false, false),
	('rate_limit', 'bucket text, key text, max integer, per interval', 'boolean', 'v', false, false, false),
	('require_rate', 'bucket text, key text, max integer, per interval', 'void', 'v', false, false, false),
	('add_fence', 'name text, area public.geometry, events text[], dwell interval, status fleet.vehicle_status, notify boolean', 'text', 'v', false, false, false),
	('add_fence', 'name text, place public.geography, radius_m double precision, events text[], dwell interval, status fleet.vehicle_status, notify boolean',
		'text', 'v', false, false, false),
	('add_pair', 'name text, vehicle_id text, other_id text, within_m double precision, notify boolean', 'text', 'v', false, false, false),
	('remove_fence', 'name text', 'void', 'v', true, false, false),
	('drop_fence_events', 'older_than interval', 'bigint', 'v', false, false, false),
	('fences_at', 'lon double precision, lat double precision', 'SETOF text', 's', true, true, true),
	('is_in_fence', 'fence text, lon double precision, lat double precision', 'boolean', 's', true, true, true),
	('near', 'vehicle_id text, within_m double precision', 'TABLE(other_id text, region text, status fleet.vehicle_status, distance_m double precision)', 's', true, true, true),
	('within', 'name text', 'TABLE(kind text, key text, region text)', 's', true, true, true),
	('limit_counters', 'OUT limiter text, OUT entries bigint, OUT in_use bigint, OUT allowed bigint, OUT refused bigint, OUT evicted bigint', 'SETOF record', 'v', true, false, false),
	('nearest_vehicles', 'lon double precision, lat double precision, k integer, radius_m double precision, status fleet.vehicle_status, scope text, on_unavailable text',
		'SETOF fleet.nearby_vehicle', 'v', false, true, true),
	('vehicles_within', 'area public.geography, status fleet.vehicle_status, scope text, on_unavailable text', 'SETOF fleet.nearby_vehicle', 'v', false, true, true),
	('distance', 'vehicle text, other text', 'double precision', 'v', true, true, true),
	('haversine', 'lon1 double precision, lat1 double precision, lon2 double precision, lat2 double precision', 'double precision', 'i', true, true, true),
	('live_index_state', 'OUT state text, OUT vehicles bigint, OUT size bigint, OUT builds bigint, OUT index_searches bigint, OUT table_searches bigint', 'record', 'v', true, false, false),
	('handoff', 'ride_id text, target text, expected_epoch bigint', 'bigint', 'v', false, false, false),
	('handoff', 'ride_ids text[], target text', 'integer', 'v', true, false, false),
	('handoff_vehicle', 'vehicle_id text, target text', 'bigint', 'v', true, false, false),
	('row_image', 'row_value record', 'jsonb', 's', true, true, true),
	('resolve', 'gid text, outcome text', 'void', 'v', true, false, false),
	('outcomes', 'gids text[]', 'text[]', 'v', true, false, true),
	('branch_applied', 'dtxid text', 'boolean', 's', true, false, true),
	('branch_evidence', 'dtxid text', 'boolean', 'v', true, false, true),
	('is_running', 'dtxid text', 'boolean', 'v', true, false, false),
	('peer_states', 'OUT region text, OUT state text, OUT failures integer, OUT opened_at timestamp with time zone, OUT next_try timestamp with time zone,'
		' OUT last_error text, OUT last_failed timestamp with time zone, OUT last_ok timestamp with time zone,'
		' OUT connects bigint, OUT answered bigint, OUT failed bigint, OUT refused bigint', 'SETOF record', 'v', true, false, false),
	('verify', '', 'TABLE(check_name text, problems bigint, ids text[])', 'v', true, false, false),
	('check_drift', 'sample integer, threshold_m double precision', 'fleet.drift_reports', 'v', true, false, false),
	('compare_all', 'threshold_m double precision, deadline interval', 'fleet.drift_reports', 'v', true, false, false),
	('heal', 'report_id bigint, force boolean', 'fleet.drift_reports', 'v', true, false, false),
	('drift_job', '', 'bigint', 'v', true, false, false),
	('digest', 'VARIADIC "any"', 'bytea', 'i', false, true, true),
	('digest_total', 'bytea', 'bytea', 'i', false, true, true),
	('take_snapshot', '', 'bigint', 'v', true, false, false),
	('verify_snapshot', 'id bigint, OUT ok boolean, OUT problem text', 'record', 's', true, false, false),
	('restore_snapshot', 'id bigint, what text, dry_run boolean', 'TABLE(kind text, key text, action text, reason text)', 'v', true, false, false),
	('thin_snapshots', 'as_of timestamp with time zone', 'integer', 'v', true, false, false),
	('prune_departures', 'max_rows integer', 'integer', 'v', true, false, false),
	('prune_handoff_log', 'max_rows integer', 'integer', 'v', true, false, false),
	('prune_call_log', 'max_rows integer', 'integer', 'v', true, false, false),
	('prune_idempotency_keys', 'max_rows integer', 'integer', 'v', true, false, false),
	('prune_dead_letters', 'max_rows integer', 'integer', 'v', true, false, false),
	('prune_job_runs', 'max_rows integer', 'integer', 'v', true, false, false),
	('roll_up_activity', '', 'integer', 'v', true, false, false),
	('schedule_jobs', '', 'integer', 'v', true, false, false),
	('unschedule_jobs', '', 'integer', 'v', true, false, false),
	('run_job', 'IN job text', NULL, 'v', false, false, false),
	('create_change_stream', 'slot name, temporary boolean', 'pg_lsn', 'v', true, false, false),
	('drop_change_stream', 'slot name', 'void', 'v', true, false, false),
	('set_old_images', 'enabled boolean', 'void', 'v', true, false, false),
	('consume', 'slot name, consumer regproc, max_changes integer, options text[], OUT changes integer, OUT dead integer', 'record', 'v', true, false, false),
	('retry_dead_letters', 'consumer regproc, max_letters integer, ids bigint[], OUT resolved integer, OUT failed integer', 'record', 'v', false, false, false),
	('search_rides', 'scope text, region text, status fleet.ride_status, vehicle_id text, customer_id text, min_fare numeric, max_fare numeric,'
		' since timestamp with time zone, near public.geography, within_m double precision, order_by text, max_rows integer, on_unavailable text',
		'SETOF fleet.rides', 'v', false, true, true),
	('count_rides', 'scope text, region text, status fleet.ride_status, vehicle_id text, customer_id text, min_fare numeric, max_fare numeric,'
		' since timestamp with time zone, near public.geography, within_m double precision, on_unavailable text', 'bigint', 'v', false, true, true),
	('ride_totals', 'scope text, region text, status fleet.ride_status, vehicle_id text, customer_id text, min_fare numeric, max_fare numeric,'
		' since timestamp with time zone, near public.geography, within_m double precision, on_unavailable text',
		'TABLE(ride_region text, ride_status fleet.ride_status, rides bigint, fares numeric, average_fare numeric)', 'v', false, true, true),
	('live_rides', 'where_sql text, scope text, order_by text, max_rows integer, on_unavailable text', 'SETOF fleet.rides', 'v', false, true, true),
	('get_ride', 'ride_id text, scope text', 'SETOF fleet.rides', 'v', false, true, true),
	('locate', 'ride_id text', 'text', 'v', true, true, true),
	('last_read', 'OUT scope text, OUT asked text[], OUT failed text[], OUT reasked integer, OUT latency_ms double precision, OUT q fleet.hlc, OUT summed boolean', 'record', 'v', true, true, true),
	('hlc_now', '', 'fleet.hlc', 'v', true, true, true),
	('hlc_receive', 'stamp fleet.hlc', 'fleet.hlc', 'v', true, false, true),
	('hlc_make', 'at timestamp with time zone, counter integer', 'fleet.hlc', 'i', true, true, true),
	('quadkey', 'lon double precision, lat double precision, level integer', 'fleet.quadkey', 'i', true, true, true),
	('quadkey_of_tile', 'x integer, y integer, level integer', 'fleet.quadkey', 'i', true, true, true),
	('quadkey_tile', 'cell fleet.quadkey, OUT x integer, OUT y integer', 'record', 'i', true, true, true),
	('quadkey_level', 'cell fleet.quadkey', 'integer', 'i', true, true, true),
	('quadkey_parent', 'cell fleet.quadkey', 'fleet.quadkey', 'i', true, true, true),
	('quadkey_parent', 'cell fleet.quadkey, level integer', 'fleet.quadkey', 'i', true, true, true),
	('quadkey_children', 'cell fleet.quadkey', 'SETOF fleet.quadkey', 'i', true, true, true),
	('quadkey_neighbours', 'cell fleet.quadkey', 'SETOF fleet.quadkey', 'i', true, true, true),
	('quadkey_last', 'cell fleet.quadkey', 'fleet.quadkey', 'i', true, true, true),
	('quadkey_range', 'cell fleet.quadkey, OUT first fleet.quadkey, OUT last fleet.quadkey', 'record', 'i', true, true, true),
	('quadkey_edges', 'cell fleet.quadkey, OUT west double precision, OUT south double precision, OUT east double precision, OUT north double precision',
		'record', 'i', true, true, true),
	('quadkey_bounds', 'cell fleet.quadkey', 'public.geometry', 'i', true, true, true),
	('quadkey_cover', 'centre public.geography, radius_m double precision, level integer', 'SETOF fleet.quadkey', 'i', true, true, true),
	('quadkey_cover', 'area public.geometry, level integer', 'SETOF fleet.quadkey', 'i', true, true, true);
CREATE TEMPORARY VIEW actual AS
	SELECT p.oid, p.proname AS name, pg_get_function_identity_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result,
		p.provolatile, p.proisstrict, has_function_privilege('fleet_node', p.oid, 'EXECUTE') AS node,
		EXISTS (SELECT FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS a
			WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE') AS public
	FROM pg_proc AS p WHERE p.pronamespace = 'fleet'::regnamespace;
SET LOCAL search_path = pg_catalog, tap, pg_temp;
SELECT is((a.result, a.provolatile, a.proisstrict, a.public, a.node)::text, (c.result, c.volatility, c.is_strict, c.public, c.node)::text,
		format('fleet.%s(%s): result, volatility, strictness, PUBLIC, fleet_node', c.name, c.args))
	FROM contract AS c LEFT JOIN actual AS a USING (name, args);

-- What else PUBLIC, or the service role, may execute: by name, so that a new
-- function is not open by oversight.
SELECT set_eq($$SELECT DISTINCT name FROM actual AS a WHERE public AND name NOT LIKE 'hlc\_%' AND name NOT LIKE 'quadkey\_%' AND NOT EXISTS (SELECT FROM contract AS c WHERE c.name = a.name)$$,
	$$VALUES ('digest_add'), ('digest_combine'), ('no_rows'), ('channel'), ('distance_to'), ('geofence_problem'), ('is_replica'), ('is_within'), ('lat'), ('lon'), ('lon_lat'), ('make_point'), ('ride_sums'), ('max'), ('min'), ('parse_conninfo'),
		('await_outcome'), ('has_departed'), ('history_slots'), ('path_of'), ('is_place'), ('is_repeated'), ('known_result'), ('note_local_read'), ('raise_not_here'), ('region_rides'), ('replica_ready'), ('global_watermark'), ('require_region'), ('route'), ('search_local_rides'), ('search_rides_support'),
		('slot_name'), ('with_result'), ('as_nearby'), ('covers'), ('search_within'), ('to_place'), ('vehicle_place'), ('within_here'), ('as_fence_area'), ('fence_area_problem'), ('fence_place_problem'), ('flat_place')$$, 'helpers that PUBLIC may execute');
SELECT set_eq($$SELECT DISTINCT name FROM actual WHERE node AND NOT public$$,
	$$VALUES ('apply_fence'), ('digest_buckets'), ('digest_rows'), ('drift_look'), ('drift_sample'), ('drop_copy'), ('restore_row'),
		('apply_map'), ('arrive'), ('branch_applied'), ('branch_evidence'), ('copy_row'), ('copy_rows'), ('depart'), ('follow_map'), ('forget_replica'), ('hlc_receive'),
		('inventory'), ('log_calls'), ('make_slot'), ('map_for_replica'), ('missing_rows'), ('nearest_here'), ('oldest_open'), ('outcomes'), ('perform'), ('pruned_upto'), ('redo'), ('replica_beat'), ('replica_progress'), ('sent_rows'), ('settle'), ('whereabouts'), ('within_peer')$$,
	'what fleet_node may execute and others may not');
SELECT set_eq($$SELECT proname FROM pg_proc WHERE pronamespace = 'fleet'::regnamespace AND prosecdef$$,
	$$VALUES ('add_fence'), ('add_pair'), ('apply_fence'), ('remove_fence'), ('digest_buckets'), ('digest_rows'), ('drift_look'), ('drift_sample'), ('drop_copy'), ('restore_row'), ('check_drift'), ('compare_all'), ('heal'), ('drift_job'),
		('apply_map'), ('branch_applied'), ('branch_evidence'), ('copy_row'), ('copy_rows'), ('depart_again'), ('follow_map'), ('forget_replica'), ('global_watermark'), ('has_departed'), ('inventory'),
		('is_replica'), ('log_calls'), ('make_slot'), ('map_for_replica'), ('missing_rows'), ('notify_change'), ('oldest_open'), ('own_region'), ('pruned_upto'), ('raise_not_here'), ('redo'), ('replica_beat'), ('replica_progress'), ('replica_ready'), ('sent_rows'), ('within_peer')$$,
	'the functions with rights of their owner');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'fleet'::regnamespace AND p.prosecdef
	AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)$$, 'each has a search_path of its own');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
	WHERE p.pronamespace = 'fleet'::regnamespace AND l.lanname IN ('plpgsql') AND p.prokind <> 'p'
	AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)$$, 'as has every function in PL/pgSQL');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
	WHERE p.pronamespace = 'fleet'::regnamespace AND l.lanname = 'sql' AND p.prosqlbody IS NULL
	AND p.proname <> 'search_local_rides'$$, 'functions in SQL are bound when they are made, but one, which has the columns that fleet.rides has by then');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'fleet'::regnamespace AND p.proleakproof
	AND p.proname !~ '^(hlc|quadkey)_(eq|ne|lt|le|gt|ge|cmp)$'$$, 'only comparisons are leakproof');

-- Optional arguments.
SELECT is(pronargdefaults::int, n, format('fleet.%s has %s optional arguments', proname, n))
	FROM (VALUES ('add_region', 1), ('register_vehicle', 1), ('request_ride', 6), ('set_ride_status', 3), ('cancel_ride', 2), ('update_ride', 1), ('report_fix', 7), ('set_crossing_rule', 3), ('path_fixes', 2), ('make_history_partitions', 1), ('report_fixes', 7),
		('create_change_stream', 1), ('consume', 2), ('restore_snapshot', 1), ('thin_snapshots', 1), ('prune_departures', 1), ('prune_handoff_log', 1),
		('prune_call_log', 1), ('prune_idempotency_keys', 1), ('prune_dead_letters', 1), ('prune_job_runs', 1), ('retry_dead_letters', 2), ('add_fence', 4), ('add_pair', 1), ('drop_fence_events', 1),
		('search_rides', 13), ('count_rides', 11), ('ride_totals', 11), ('live_rides', 4), ('get_ride', 1), ('nearest_vehicles', 5), ('vehicles_within', 3)) AS v(name, n)
		JOIN pg_proc ON proname = name AND pronamespace = 'fleet'::regnamespace;

-- Tables, views, types.
SELECT set_eq($$SELECT relname FROM pg_class WHERE relnamespace = 'fleet'::regnamespace AND relkind IN ('r', 'p', 'f') AND NOT relispartition$$,
	$$VALUES ('drift_cursors'), ('drift_reports'), ('heal_log'), ('conflicts'),
		('node'), ('map'), ('map_regions'), ('map_log'), ('map_replicas'), ('replica_joins'), ('replica_slots'), ('replica_sources'), ('graves_collected'), ('heartbeat'), ('vehicles'), ('rides'), ('departures'), ('handoff_log'), ('decisions'), ('call_log'), ('resolution'), ('crossing_rules'), ('handoff_queue'), ('flaps'),
		('dead_letters'), ('consumers'), ('fences'), ('fence_log'), ('fence_events'), ('snapshots'), ('snapshot_positions'), ('snapshot_rides'), ('restores'), ('restored_rows'), ('departures_pruned'), ('job_settings'), ('job_runs'), ('activity'), ('fix_history')$$, 'tables');
SELECT set_eq($$SELECT relname FROM pg_class WHERE relnamespace = 'fleet'::regnamespace AND relkind IN ('v', 'm')$$, $$VALUES ('fix_feed'), ('flapping'), ('in_doubt'), ('jobs'), ('limits'), ('live_index'), ('located_in'), ('peers'), ('regions'), ('replica_status'), ('requested_by')$$, 'views');
SELECT enums_are('fleet', ARRAY['ride_status', 'vehicle_status']);
SELECT enum_has_labels('fleet', 'ride_status', ARRAY['PENDING', 'EN_ROUTE', 'ARRIVED', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED']);
SELECT enum_has_labels('fleet', 'vehicle_status', ARRAY['OFFLINE', 'ONLINE', 'BUSY', 'ON_TRIP']);
SELECT has_type('fleet', 'hlc', 'type hlc');
SELECT has_type('fleet', 'quadkey', 'type quadkey');
CREATE TEMPORARY VIEW columns AS SELECT c.relname AS rel, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
		|| CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum) AS columns
	FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE c.relnamespace = 'fleet'::regnamespace GROUP BY c.relname;
SELECT is((SELECT columns FROM columns WHERE rel = 'rides'), 'ride_id text NOT NULL, vehicle_id text, customer_id text NOT NULL, region text NOT NULL,'
	' status fleet.ride_status NOT NULL, fare numeric(12,2) NOT NULL, start_location public.geography(Point,4326) NOT NULL,'
	' current_location public.geography(Point,4326), end_location public.geography(Point,4326), requested_at timestamp with time zone,'
	' en_route_at timestamp with time zone, arrived_at timestamp with time zone, started_at timestamp with time zone,'
	' completed_at timestamp with time zone, cancelled_at timestamp with time zone, updated_at timestamp with time zone NOT NULL,'
	' path_m double precision NOT NULL, duration interval, epoch bigint NOT NULL, hlc fleet.hlc NOT NULL, idempotency_keys jsonb', 'columns of rides');
SELECT is((SELECT columns FROM columns WHERE rel = 'vehicles'), 'vehicle_id text NOT NULL, region text NOT NULL, status fleet.vehicle_status NOT NULL,'
	' location public.geography(Point,4326), fix_at timestamp with time zone, speed_kmh double precision, heading double precision,'
	' altitude_m double precision, accuracy_m double precision, battery_pct double precision, outside_region text,'
	' outside_since timestamp with time zone, updated_at timestamp with time zone NOT NULL, epoch bigint NOT NULL, hlc fleet.hlc NOT NULL, stays jsonb', 'columns of vehicles');
SELECT is((SELECT columns FROM columns WHERE rel = 'departures'), 'kind text NOT NULL, key text NOT NULL, epoch bigint NOT NULL, target text, hlc fleet.hlc NOT NULL,'
	' image jsonb, dtxid text, settled_hlc fleet.hlc, departed_at timestamp with time zone NOT NULL', 'columns of departures');
SELECT is((SELECT columns FROM columns WHERE rel = 'handoff_log'), 'id bigint NOT NULL, ride_id text, vehicle_id text, source text, target text NOT NULL, epoch bigint NOT NULL,'
	' hlc fleet.hlc NOT NULL, dtxid text, status text NOT NULL, started_at timestamp with time zone NOT NULL, latency_ms double precision', 'columns of handoff_log');
SELECT is((SELECT columns FROM columns WHERE rel = 'regions'), 'name text, node text, state text, capacity integer, rides bigint, map_version bigint', 'columns of regions');
SELECT is((SELECT columns FROM columns WHERE rel = 'in_doubt'), 'gid text, role text, peer text, state text, age interval, attempts integer, last_error text,'
	' next_try timestamp with time zone', 'columns of in_doubt');
SELECT is((SELECT columns FROM columns WHERE rel = 'peers'), 'region text, state text, failures integer, opened_at timestamp with time zone,'
	' next_try timestamp with time zone, last_error text, last_failed timestamp with time zone, last_ok timestamp with time zone,'
	' connects bigint, answered bigint, failed bigint, refused bigint', 'columns of peers');
SELECT is((SELECT columns FROM columns WHERE rel = 'nearby_vehicle'), 'vehicle_id text, region text, status fleet.vehicle_status, lon double precision,'
	' lat double precision, distance_m double precision, heading double precision, fix_at timestamp with time zone', 'columns of nearby_vehicle');
SELECT is((SELECT columns FROM columns WHERE rel = 'fix_result'), 'outcome text, region text, epoch bigint', 'columns of fix_result');
SELECT ok((SELECT relkind = 'r' FROM pg_class WHERE oid = 'fleet.local_rides'::regclass), 'own rides are a table');
SELECT ok((SELECT relkind = 'f' FROM pg_class WHERE oid = 'fleet.rides_east'::regclass), 'other rides are a foreign table');
SELECT set_eq($$SELECT relname FROM pg_class AS c JOIN pg_extension AS e ON c.oid = ANY (e.extconfig) WHERE extname = 'fleet' AND relkind = 'r'$$,
	$$VALUES ('node'), ('map'), ('map_regions'), ('map_log'), ('map_replicas'), ('departures'), ('handoff_log'), ('decisions'), ('call_log'), ('crossing_rules'), ('handoff_queue'), ('dead_letters'), ('graves_collected'), ('fences'), ('fence_log'), ('fence_events'), ('heal_log'), ('conflicts'), ('departures_pruned'), ('job_settings'), ('activity'), ('fix_history_default')$$, 'tables whose rows pg_dump keeps');

SELECT results_eq($$SELECT p.part::text, array_length(p.columns, 1) FROM fleet.published() AS p WHERE p.part LIKE 'local%' ORDER BY 1$$,
	$$SELECT 'local_' || c.relname, count(*)::integer FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
		JOIN fleet.published() AS p ON p.part = 'local_' || c.relname AND a.attname = ANY (p.columns)
		WHERE c.oid IN ('fleet.rides'::regclass, 'fleet.vehicles'::regclass) GROUP BY 1 ORDER BY 1$$, 'what is published to replicas are columns');
SELECT results_eq($$SELECT c.relname::text, count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
		WHERE c.oid IN ('fleet.rides'::regclass, 'fleet.vehicles'::regclass) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY 1 ORDER BY 1$$,
	$$SELECT substr(p.part, 7), array_length(p.columns, 1)::bigint FROM fleet.published() AS p WHERE p.part LIKE 'local%' ORDER BY 1$$, 'and all of fleet''s own');

-- Settings: default, range, unit, who may set them.  Two more are in test builds only.
SELECT set_eq($$SELECT name, reset_val, min_val, max_val, unit, context, vartype FROM pg_settings WHERE name IN (
		'fleet.border_tolerance', 'fleet.crossing_distance', 'fleet.crossing_dwell', 'fleet.max_speed', 'fleet.lock_timeout',
		'fleet.prepare_timeout', 'fleet.commit_timeout', 'fleet.resolve_interval', 'fleet.max_in_doubt_age', 'fleet.heartbeat_interval', 'fleet.read_timeout', 'fleet.breaker_failures', 'fleet.sum_threshold', 'fleet.fix_min_interval', 'fleet.limit_entries', 'fleet.live_index_size', 'fleet.vehicle_ttl', 'fleet.fence_event_retention',
		'fleet.drift_timeout', 'fleet.drift_threshold', 'fleet.heal_limit', 'fleet.snapshot_keep_all', 'fleet.snapshot_keep_hourly', 'fleet.snapshot_keep_daily',
		'fleet.departure_retention', 'fleet.log_retention', 'fleet.job_runs_retention', 'fleet.history_retention',
		'fleet.handoff_mode', 'fleet.handoff_queue_limit', 'fleet.flap_window')$$,
	$$VALUES ('fleet.border_tolerance', '1000', '0', '100000', NULL, 'user', 'real'),
		('fleet.crossing_distance', '100', '-1', '100000', NULL, 'user', 'real'),
		('fleet.crossing_dwell', '60', '-1', '86400', 's', 'user', 'real'),
		('fleet.max_speed', '60', '0', '10000', NULL, 'user', 'real'),
		('fleet.lock_timeout', '1000', '1', '600000', 'ms', 'user', 'integer'),
		('fleet.prepare_timeout', '5000', '10', '600000', 'ms', 'user', 'integer'),
		('fleet.commit_timeout', '1000', '1', '600000', 'ms', 'user', 'integer'),
		('fleet.resolve_interval', '1000', '10', '60000', 'ms', 'sighup', 'integer'),
		('fleet.max_in_doubt_age', '60000', '0', '604800000', 'ms', 'sighup', 'integer'),
		('fleet.heartbeat_interval', '1000', '10', '60000', 'ms', 'sighup', 'integer'),
		('fleet.read_timeout', '5000', '1', '600000', 'ms', 'user', 'integer'),
		('fleet.breaker_failures', '5', '0', '1000000', NULL, 'superuser', 'integer'),
		('fleet.handoff_mode', 'queued', NULL, NULL, NULL, 'user', 'enum'),
		('fleet.handoff_queue_limit', '10000', '0', '1000000', NULL, 'superuser', 'integer'),
		('fleet.flap_window', '600', '0', '86400', 's', 'user', 'integer'),
		('fleet.fix_min_interval', '0', '0', '86400000', 'ms', 'superuser', 'integer'),
		('fleet.fence_event_retention', '604800', '0', '316224000', 's', 'superuser', 'integer'),
		('fleet.drift_timeout', '5000', '100', '600000', 'ms', 'superuser', 'integer'),
		('fleet.drift_threshold', '5', '0', '100', NULL, 'superuser', 'real'),
		('fleet.heal_limit', '1000', '0', '1000000', NULL, 'superuser', 'integer'),
		('fleet.history_retention', '10080', '0', '52560000', 'min', 'sighup', 'integer'),
		('fleet.limit_entries', '65536', '13', '16777216', NULL, 'postmaster', 'integer'),
		('fleet.live_index_size', '100000', '0', '50000000', NULL, 'postmaster', 'integer'),
		('fleet.vehicle_ttl', '600', '0', '31536000', 's', 'user', 'integer'),
		('fleet.snapshot_keep_all', '1440', '0', '5256000', 'min', 'superuser', 'integer'),
		('fleet.snapshot_keep_hourly', '10080', '0', '5256000', 'min', 'superuser', 'integer'),
		('fleet.snapshot_keep_daily', '43200', '0', '5256000', 'min', 'superuser', 'integer'),
		('fleet.departure_retention', '50400', '60', '5256000', 'min', 'superuser', 'integer'),
		('fleet.log_retention', '43200', '60', '5256000', 'min', 'superuser', 'integer'),
		('fleet.job_runs_retention', '10080', '1', '5256000', 'min', 'superuser', 'integer'),
		('fleet.sum_threshold', '1000', '0', '1000000', NULL, 'user', 'integer')$$, 'settings');
SELECT set_eq($$SELECT name FROM pg_settings WHERE name LIKE 'fleet.%' AND name NOT IN ('fleet.fault', 'fleet.test_clock_offset')$$,
	$$VALUES ('fleet.border_tolerance'), ('fleet.crossing_distance'), ('fleet.crossing_dwell'), ('fleet.max_speed'), ('fleet.lock_timeout'),
		('fleet.prepare_timeout'), ('fleet.commit_timeout'), ('fleet.connect_timeout'), ('fleet.resolve_interval'), ('fleet.max_clock_skew'),
		('fleet.allow_async'), ('fleet.max_in_doubt_age'), ('fleet.heartbeat_interval'), ('fleet.read_timeout'), ('fleet.routing'), ('fleet.breaker_failures'), ('fleet.sum_threshold'), ('fleet.fix_durability'), ('fleet.fix_min_interval'), ('fleet.history_retention'), ('fleet.limit_entries'), ('fleet.live_index_size'), ('fleet.vehicle_ttl'), ('fleet.fence_event_retention'),
		('fleet.drift_timeout'), ('fleet.drift_threshold'), ('fleet.heal_limit'),
		('fleet.snapshot_keep_all'), ('fleet.snapshot_keep_hourly'), ('fleet.snapshot_keep_daily'), ('fleet.departure_retention'), ('fleet.log_retention'), ('fleet.job_runs_retention'), ('fleet.inline_local_reads'), ('fleet.handoff_mode'), ('fleet.handoff_queue_limit'), ('fleet.flap_window')$$, 'no other settings');
SELECT is((SELECT boot_val FROM pg_settings WHERE name = 'fleet.allow_async'), 'off', 'a node without a standby is not allowed by default');
SELECT is((SELECT boot_val || ' ' || context FROM pg_settings WHERE name = 'fleet.inline_local_reads'), 'on user', 'local reads are part of their statement by default');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'fleet.%' AND name NOT IN ('fleet.fault', 'fleet.test_clock_offset') AND (short_desc = '' OR COALESCE(extra_desc, '') = '')$$,
	'each says what it is and when to change it');
SELECT throws_ok($$SET fleet.no_such_setting = 1$$, '42602', NULL, 'the prefix is reserved');
SELECT throws_ok(format('SET %s = %s', name, value), '22023', NULL, format('%s = %s is out of range', name, value)) FROM (VALUES
	('fleet.border_tolerance', '-1'), ('fleet.crossing_distance', '-2'), ('fleet.crossing_dwell', '86401'), ('fleet.max_speed', '-1'),
	('fleet.lock_timeout', '0'), ('fleet.prepare_timeout', '9'), ('fleet.commit_timeout', '0'), ('fleet.read_timeout', '0'), ('fleet.breaker_failures', '-1'), ('fleet.sum_threshold', '-1'), ('fleet.fix_min_interval', '-1'), ('fleet.vehicle_ttl', '-1'), ('fleet.fence_event_retention', '-1'), ('fleet.handoff_mode', 'later'), ('fleet.handoff_queue_limit', '-1'), ('fleet.flap_window', '86401')) AS v(name, value);

-- Comments.
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'fleet'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL$$,
	'every function has a comment');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class AS c WHERE c.relnamespace = 'fleet'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL$$, 'every table and view has a comment');
SELECT is_empty($$SELECT t.oid::regtype FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid WHERE t.typnamespace = 'fleet'::regnamespace
	AND (t.typtype IN ('b', 'e') AND t.typcategory <> 'A' OR c.relkind = 'c') AND obj_description(t.oid, 'pg_type') IS NULL$$, 'every type has a comment');
SELECT is_empty($$SELECT o.oid::regoperator FROM pg_operator AS o WHERE o.oprnamespace = 'fleet'::regnamespace AND obj_description(o.oid, 'pg_operator') IS NULL$$,
	'every operator has a comment');

-- Rights.
SELECT ok(rolcanlogin AND NOT rolsuper AND NOT rolcreatedb AND NOT rolcreaterole AND NOT rolinherit AND NOT rolreplication AND NOT rolbypassrls,
	'role fleet_node can log in, and nothing else') FROM pg_roles WHERE rolname = 'fleet_node';
SELECT is_empty($$SELECT roleid::regrole, member::regrole FROM pg_auth_members WHERE 'fleet_node'::regrole IN (roleid, member)$$,
	'fleet_node is member of nothing and has no members');
SELECT is_empty($$SELECT c.oid::regclass, a.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS a
	WHERE c.relnamespace = 'fleet'::regnamespace AND a.grantee = 0$$, 'PUBLIC has no right on any table, view or sequence');
SELECT is_empty($$SELECT c.oid::regclass, t.attname, a.privilege_type FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS a
	WHERE c.relnamespace = 'fleet'::regnamespace AND a.grantee = 0$$, 'nor on any column');
SELECT set_eq($$SELECT c.relname, a.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS a
	WHERE c.relnamespace = 'fleet'::regnamespace AND a.grantee = 'fleet_node'::regrole$$,
	$$VALUES ('local_rides', 'SELECT'), ('local_vehicles', 'SELECT'), ('departures', 'SELECT'), ('decisions', 'SELECT'), ('fix_history', 'SELECT')$$, 'fleet_node reads the own region''s rides, vehicles and fixes, what has departed, and what was decided');
SELECT set_eq($$SELECT c.relname, t.attname, a.privilege_type FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS a
	WHERE c.relnamespace = 'fleet'::regnamespace AND a.grantee = 'fleet_node'::regrole$$,
	$$VALUES ('local_rides', 'updated_at', 'UPDATE'), ('local_vehicles', 'updated_at', 'UPDATE')$$, 'and may update one column that fleet sets anyway');
SELECT ok(has_schema_privilege('fleet_node', 'fleet', 'USAGE') AND NOT has_schema_privilege('fleet_node', 'fleet', 'CREATE'), 'schema fleet is used, not filled');
SELECT is_empty($$SELECT a.privilege_type FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'fleet' AND a.grantee = 0 AND a.privilege_type <> 'USAGE'$$,
	'by anybody');
SELECT is_empty($$SELECT srvname FROM pg_foreign_server AS s, aclexplode(s.srvacl) AS a WHERE srvname LIKE 'fleet\_%'$$, 'nobody may use the foreign servers for tables of his own');
SELECT is((SELECT extrelocatable FROM pg_extension WHERE extname = 'fleet'), false, 'the extension stays in its schema');

SELECT * FROM finish();
ROLLBACK;
