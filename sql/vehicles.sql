--
-- Vehicles
--
\set SHOW_CONTEXT never
\c fleet_w

SELECT fleet.register_vehicle('W-1', 0.25, 0.75);
SELECT fleet.register_vehicle('W-2', 0.5, 0.5, 'OFFLINE');
SELECT vehicle_id, region, status, ST_AsText(location) AS place, fix_at, speed_kmh, heading, altitude_m, accuracy_m, battery_pct,
	outside_region, outside_since, epoch FROM fleet.vehicles ORDER BY vehicle_id;
SELECT updated_at <= now() AS updated, hlc::bigint <= fleet.hlc_now()::bigint AS stamped FROM fleet.vehicles WHERE vehicle_id = 'W-1';

-- Refused.
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-1', 0.5, 0.5)$$);
SET fleet.routing = 'redirect';
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', 1.5, 0.5)$$);
RESET fleet.routing;
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', 50, 50)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', 181, 0)$$) AS r WHERE r LIKE '22003%';
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', NULL, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle(NULL, 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('', 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle(repeat('x', 201), 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', 0.5, 0.5, NULL)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-3', 0.5, 0.5, 'PARKED')$$);

-- Each value is checked.
SELECT set, r FROM (VALUES ('speed_kmh = -1'), ('speed_kmh = ''NaN'''), ('speed_kmh = ''Infinity'''), ('speed_kmh = 0'),
	('heading = -0.1'), ('heading = 360.1'), ('heading = 360'), ('heading = ''NaN'''),
	('altitude_m = -400'), ('altitude_m = ''Infinity'''), ('altitude_m = ''-Infinity'''), ('altitude_m = ''NaN'''),
	('accuracy_m = -1'), ('accuracy_m = ''Infinity'''), ('accuracy_m = 0'),
	('battery_pct = -1'), ('battery_pct = 100.5'), ('battery_pct = 100'), ('battery_pct = ''NaN'''),
	('status = NULL'), ('location = NULL'), ('location = ''LINESTRING(0 0, 1 1)'''),
	('vehicle_id = ''W-9'''), ('region = ''east''')) AS s(set),
	test.raised(format($$UPDATE fleet.vehicles SET %s WHERE vehicle_id = 'W-1' AND region = 'west'$$, set)) AS r
	WHERE r ~ '^[0-9A-Z]{5} ' OR r = 'nothing';
SELECT * FROM test.raised($$UPDATE fleet.vehicles SET region = 'east' WHERE vehicle_id = 'W-1' AND region = 'west'$$);

-- The version is fleet's to give; any status may follow any.
SELECT hlc::bigint AS hlc FROM fleet.vehicles WHERE vehicle_id = 'W-1' \gset
UPDATE fleet.vehicles SET epoch = 9, hlc = '1970-01-01T00:00:00.001Z/00000' WHERE vehicle_id = 'W-1' AND region = 'west';
SELECT epoch, hlc::bigint > :hlc AS newer FROM fleet.vehicles WHERE vehicle_id = 'W-1';
DO $$
DECLARE
	s fleet.vehicle_status;
BEGIN
	FOREACH s IN ARRAY ARRAY['ON_TRIP', 'OFFLINE', 'BUSY', 'ONLINE', 'ON_TRIP']::fleet.vehicle_status[] LOOP
		UPDATE fleet.vehicles SET status = s WHERE vehicle_id = 'W-1' AND region = 'west';
	END LOOP;
END
$$;
SELECT * FROM test.my_vehicles;

-- A vehicle with an open ride stays.  A deleted one leaves a grave.
SELECT fleet.request_ride('WR-1', 'C-1', 0.5, 0.5, 'W-1');
SELECT * FROM test.raised($$DELETE FROM fleet.vehicles WHERE vehicle_id = 'W-1' AND region = 'west'$$);
SELECT fleet.set_ride_status('WR-1', 'CANCELLED');
DELETE FROM fleet.vehicles WHERE vehicle_id = 'W-1' AND region = 'west';
SELECT kind, key, epoch, target, image FROM fleet.departures WHERE kind = 'vehicle' AND key = 'W-1';
SELECT fleet.register_vehicle('W-1', 0.5, 0.5);
SELECT * FROM test.my_vehicles;

-- A vehicle and a ride of the same name are two things.
SELECT fleet.request_ride('W-1', 'C-1', 0.5, 0.5);
DELETE FROM fleet.rides WHERE ride_id = 'W-1' AND region = 'west';
SELECT kind, key, epoch FROM fleet.departures WHERE key = 'W-1';
SELECT * FROM test.my_vehicles;

-- Only its own node writes it; all read it.
\c fleet_e
SELECT vehicle_id, region, status FROM fleet.vehicles WHERE region = 'west' ORDER BY vehicle_id;
SELECT * FROM test.raised($$UPDATE fleet.vehicles SET status = 'ONLINE' WHERE vehicle_id = 'W-1' AND region = 'west'$$);
SELECT * FROM test.raised($$DELETE FROM fleet.vehicles WHERE vehicle_id = 'W-1'$$);
SELECT * FROM test.raised($$INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('W-9', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.report_fix('W-1', 0.5, 0.5)$$);

-- One that has left is known to have left, also when it is registered again.
\c fleet_w
SELECT fleet.handoff_vehicle('W-2', 'east');
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('W-2', 0.5, 0.5)$$);
SET fleet.routing = 'redirect';
SELECT * FROM test.raised($$SELECT fleet.report_fix('W-2', 0.5, 0.5)$$);
RESET fleet.routing;
SELECT * FROM test.raised($$SELECT fleet.report_fix('W-0', 0.5, 0.5)$$);

DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
\c fleet_e
SELECT * FROM test.my_vehicles;
DELETE FROM fleet.vehicles WHERE region = 'east';
