--
-- What a node is sent by others is checked, whatever it is
--
\set SHOW_CONTEXT never
\c fleet_w

CREATE FUNCTION pg_temp.arrive(document jsonb, redo boolean DEFAULT false) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT test.raised(format('SELECT fleet.arrive(%L, %L, (SELECT version FROM fleet.map), %L)', 'x', document, redo))
$$;
-- A vehicle as it would arrive, and the same without or with another field.
INSERT INTO fleet.local_vehicles (vehicle_id, region) VALUES ('M-1', 'west');
CREATE TEMPORARY TABLE good AS SELECT jsonb_build_object('kind', 'vehicle', 'key', 'M-2', 'epoch', 7, 'hlc', 1, 'source', 'east',
	'target', 'west', 'image', fleet.row_image(v) || '{"vehicle_id": "M-2", "epoch": "7"}') AS row
	FROM fleet.local_vehicles AS v WHERE vehicle_id = 'M-1';

-- No list of rows.
SELECT d, pg_temp.arrive(d) FROM unnest('{null,1,"\"x\"","{}",true}'::text[]::jsonb[]) AS d;
SELECT d, pg_temp.arrive(d) FROM unnest(ARRAY['[null]', '[1]', '[[]]', '["x"]', '[{}]']::jsonb[]) AS d;
-- Each field that is missing, null, or something else.
SELECT f AS without, pg_temp.arrive(jsonb_build_array(row - f)) FROM good, unnest('{kind,key,epoch,hlc,source,target,image}'::text[]) AS f;
SELECT f AS null, pg_temp.arrive(jsonb_build_array(row || jsonb_build_object(f, NULL))) FROM good, unnest('{kind,key,epoch,hlc,image}'::text[]) AS f;
SELECT f AS array, pg_temp.arrive(jsonb_build_array(row || jsonb_build_object(f, '[]'::jsonb))) FROM good, unnest('{kind,key,epoch,hlc,image}'::text[]) AS f;
SELECT pg_temp.arrive(jsonb_build_array(row || '{"kind": "boat"}')) FROM good;
SELECT pg_temp.arrive(jsonb_build_array(row || '{"epoch": 1e30}')) FROM good;
-- The image.
SELECT pg_temp.arrive(jsonb_build_array(jsonb_set(row, ARRAY['image', f], '7'))) FROM good, unnest('{region,status,location}'::text[]) AS f;
SELECT pg_temp.arrive(jsonb_build_array(jsonb_set(row, ARRAY['image', f], '"x"'))) FROM good, unnest('{status,epoch,hlc,updated_at}'::text[]) AS f;
SELECT pg_temp.arrive(jsonb_build_array(row #- '{image,vehicle_id}')) FROM good;
-- Twice the same.
SELECT pg_temp.arrive(jsonb_build_array(row, row)) FROM good;
-- Nothing of all this is left.
SELECT vehicle_id FROM fleet.local_vehicles WHERE vehicle_id LIKE 'M-%';
DELETE FROM fleet.local_vehicles WHERE vehicle_id = 'M-1';
