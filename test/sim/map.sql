-- fleet: the map of a replay as SVG, drawn by PostGIS.
-- Copyright (c) 2026, the fleet authors
--
-- Run by psql -XAtq on any node, after the temporary tables
--   track (vehicle text, t bigint, lon float8, lat float8)
--   event (vehicle text, ride text, t bigint, lon float8, lat float8,
--          source text, target text)
-- were filled, with the variable title set.  Prints the SVG.
--
-- A degree of longitude is as wide as a degree of latitude times cos(latitude).
-- Geometries are brought to pixels with y pointing up and the map's top at 0;
-- ST_AsSVG turns y over.  Shapes are simplified to a fraction of a pixel.
\set ON_ERROR_STOP on
\set width 1000
\set top 64
\set bottom 56

-- What is shown: where nearly all fixes are (a stray one must not shrink the
-- map to a dot), and somewhat more.
CREATE TEMP TABLE frame AS
WITH seen AS (
    SELECT percentile_cont(ARRAY[0.002, 0.998]) WITHIN GROUP (ORDER BY lon) AS lon,
           percentile_cont(ARRAY[0.002, 0.998]) WITHIN GROUP (ORDER BY lat) AS lat
      FROM (SELECT lon, lat FROM track UNION ALL SELECT lon, lat FROM event) AS place
), middle AS (
    SELECT (lon[1] + lon[2]) / 2 AS lon, (lat[1] + lat[2]) / 2 AS lat,
           greatest(lon[2] - lon[1], 0.02) / 2 * 1.16 AS half_lon,
           greatest(lat[2] - lat[1], 0.02) / 2 * 1.16 AS half_lat
      FROM seen
), wide AS (
    -- neither a slit nor a tower: height from 0.55 to 0.85 of the width
    SELECT lon, lat,
           greatest(half_lon, half_lat / cos(radians(lat)) / 0.85) AS half_lon,
           greatest(half_lat, half_lon * cos(radians(lat)) * 0.55) AS half_lat
      FROM middle
)
SELECT lon - half_lon AS west, lat + half_lat AS north,
       :width / (2 * half_lon) AS kx,
       :width / (2 * half_lon) / cos(radians(lat)) AS ky,
       round(:width * half_lat / half_lon / cos(radians(lat))) AS height,
       111195 * cos(radians(lat)) * 2 * half_lon / :width AS metres
  FROM wide;

CREATE FUNCTION pg_temp.pixels(shape geometry) RETURNS geometry
LANGUAGE sql STABLE
RETURN (SELECT ST_Affine(ST_SetSRID(shape, 0), kx, 0, 0, ky, -kx * west, -ky * north)
          FROM pg_temp.frame);

-- A gap of ten minutes ends a line, or it would run straight across the map.
CREATE TEMP TABLE line AS
WITH gap AS (
    SELECT vehicle, t, lon, lat,
           t - lag(t) OVER (PARTITION BY vehicle ORDER BY t) > 600 AS starts
      FROM track
), piece AS (
    SELECT vehicle, t, lon, lat,
           count(*) FILTER (WHERE starts) OVER (PARTITION BY vehicle ORDER BY t) AS n
      FROM gap
)
SELECT vehicle, ST_Simplify(ST_Collect(shape), 0.5) AS shape
  FROM (SELECT vehicle, n, pg_temp.pixels(ST_MakeLine(ST_MakePoint(lon, lat) ORDER BY t)) AS shape
          FROM piece GROUP BY vehicle, n HAVING count(*) > 1) AS pieces
 GROUP BY vehicle;

-- The name of a region goes to the centre of the greatest circle that is seen
-- of it and free of lines.
CREATE TEMP TABLE region AS
WITH numbered AS (
    SELECT name, geofence, row_number() OVER (ORDER BY name) - 1 AS n
      FROM fleet.map_regions
), shown AS (
    SELECT name, n,
           ST_ClipByBox2D(ST_SimplifyPreserveTopology(pg_temp.pixels(geofence), 0.4),
                          ST_MakeEnvelope(-20, -height - 20, :width + 20, 20)) AS shape,
           ST_MakeEnvelope(0, -height, :width, 0) AS view
      FROM numbered, frame
)
SELECT name, shape,
       initcap(replace(name, '_', ' ')) AS label,
       (ARRAY['#cfe6d8', '#fbe3cb', '#dcd7ee', '#fbf0bf', '#d3e4f3', '#f6d9e4',
              '#e2ebc6', '#e6dccd', '#e1e1e1'])[n % 9 + 1] AS fill,
       (ARRAY['#12805c', '#d9570a', '#6a45b0', '#a87f00', '#1769aa', '#c2185b',
              '#5f8700', '#7d5228', '#555555'])[n % 9 + 1] AS colour,
       (ST_MaximumInscribedCircle(ST_Difference(
            ST_Intersection(ST_MakeValid(shape), view),
            (SELECT COALESCE(ST_Union(ST_Buffer(ST_Simplify(line.shape, 4), 4, 'quad_segs=1')),
                             'POLYGON EMPTY') FROM line)))).*
  FROM shown
 WHERE ST_Intersects(shape, view);

CREATE FUNCTION pg_temp.escape(plain text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN replace(replace(replace(plain, '&', '&amp;'), '<', '&lt;'), '"', '&quot;');

-- ---- the drawing

SELECT format('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %1$s %2$s" width="%1$s" height="%2$s" '
              'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
              :width, :top + height + :bottom)
  FROM frame;
SELECT format('<title>%s</title>', pg_temp.escape(:'title'));
SELECT format('<rect width="%s" height="%s" fill="#ffffff"/>', :width, :top + height + :bottom) FROM frame;
SELECT format('<text x="16" y="28" font-size="20" font-weight="bold" fill="#222">%s</text>',
              pg_temp.escape(:'title'));
SELECT format('<text x="16" y="50" font-size="13" fill="#666">%s vehicles, %s handoffs, %s UTC to %s UTC</text>',
              count(DISTINCT vehicle), (SELECT count(*) FROM event),
              to_char(to_timestamp(min(t)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'),
              to_char(to_timestamp(max(t)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
  FROM track;

SELECT format('<clipPath id="view"><rect width="%1$s" height="%2$s"/></clipPath>'
              '<g transform="translate(0 %3$s)" clip-path="url(#view)">'
              '<rect width="%1$s" height="%2$s" fill="#eef2f5"/>', :width, height, :top)
  FROM frame;
SELECT format('<path d="%s" fill="%s" fill-rule="evenodd"/>', ST_AsSVG(shape, 1, 1), fill) FROM region ORDER BY name;
SELECT '<g fill="none" stroke="#34495e" stroke-opacity="0.33" stroke-width="0.8" stroke-linejoin="round">';
SELECT format('<path d="%s"/>', ST_AsSVG(shape, 1, 1)) FROM line WHERE NOT ST_IsEmpty(shape) ORDER BY vehicle;
SELECT '</g><g fill="none" stroke="#5b5b5b" stroke-width="1.4" stroke-linejoin="round">';
SELECT format('<path d="%s"/>', ST_AsSVG(shape, 1, 1)) FROM region ORDER BY name;
SELECT '</g><g stroke="#ffffff" stroke-width="0.7" fill-opacity="0.9">';
SELECT format('<circle %s r="3.4" fill="%s"/>',
              ST_AsSVG(pg_temp.pixels(ST_MakePoint(lon, lat)), 0, 1), coalesce(colour, '#000000'))
  FROM event LEFT JOIN region ON name = target
 ORDER BY t, vehicle;
SELECT '</g>';
SELECT format('<text x="%s" y="%s" text-anchor="middle" font-size="%s" font-weight="bold" fill="%s" '
              'stroke="#ffffff" stroke-width="4" stroke-linejoin="round" paint-order="stroke">%s</text>',
              round(greatest(90, least(:width - 90, ST_X(center)))), round(-ST_Y(center)),
              CASE WHEN radius > 40 THEN 22 ELSE 17 END, colour, pg_temp.escape(label))
  FROM region WHERE radius > 8 ORDER BY name;
SELECT '</g>';

-- ---- the legend: track, one dot per region, scale

SELECT format('<g transform="translate(0 %s)" font-size="13" fill="#333">'
              '<path d="M16 28 h36" stroke="#34495e" stroke-opacity="0.6" stroke-width="1.5"/>'
              '<text x="60" y="33">vehicle</text><text x="130" y="33">handed off to</text>',
              :top + height)
  FROM frame;
SELECT format('<circle cx="%s" cy="28" r="5" fill="%s"/><text x="%s" y="33">%s</text>',
              round(before + 232), colour, round(before + 242), pg_temp.escape(label))
  FROM (SELECT *, coalesce(sum(length(label) * 8 + 30)
                           OVER (ORDER BY name ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
          FROM region) AS r
 WHERE before < :width - 500
 ORDER BY name;
SELECT format('<path d="M%s 24 v6 h%s v-6" fill="none" stroke="#333" stroke-width="1.3"/>'
              '<text x="%s" y="46" text-anchor="middle">%s km</text>',
              round(:width - 20 - px), round(px), round(:width - 20 - px / 2), km)
  FROM (SELECT km, km * 1000 / metres AS px,
               row_number() OVER (ORDER BY km DESC) AS n
          FROM frame, unnest(ARRAY[0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]) AS km
         WHERE km * 1000 / metres <= 160) AS scale
 WHERE n = 1;
SELECT '</g></svg>';
