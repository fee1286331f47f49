-- name: stage
-- What the sources list now, one row a source and URI; it lives and dies with the writer's connection.
CREATE TEMPORARY TABLE IF NOT EXISTS staged (
    source_id uuid, uri text, uri_key bytea, kind text, size_bytes bigint, modified_at timestamptz, etag text
);

-- name: clear_stage
TRUNCATE staged;

-- name: analyze_stage
ANALYZE staged;

-- name: stage_differences
-- Only what differs is looked at further: `known` is an item of a document that this source listed before.
CREATE TEMPORARY TABLE IF NOT EXISTS difference (
    source_id uuid, uri text, uri_key bytea, kind text, size_bytes bigint, modified_at timestamptz, etag text,
    document_id uuid, known boolean, forgotten boolean, had_hash bytea, content_hash bytea
);

-- name: index_differences
CREATE INDEX IF NOT EXISTS difference_key ON difference (source_id, uri_key);

-- name: analyze_differences
ANALYZE difference;

-- name: clear_differences
TRUNCATE difference;

-- name: differences
INSERT INTO difference
SELECT DISTINCT ON (s.source_id, s.uri_key)
       s.source_id, s.uri, s.uri_key, s.kind, s.size_bytes, s.modified_at, s.etag,
       d.document_id, l.document_id IS NOT NULL, d.forgotten_at IS NOT NULL, d.content_hash, NULL
  FROM staged s
  LEFT JOIN document d ON d.tenant_id = %(tenant_id)s AND d.uri_key = s.uri_key AND d.removed_at IS NULL
  LEFT JOIN listed l ON l.tenant_id = %(tenant_id)s AND l.source_id = s.source_id AND l.document_id = d.document_id
 WHERE %(force)s
    OR l.document_id IS NULL
    OR d.kind <> s.kind
    OR (s.etag IS NULL AND s.modified_at IS NULL)
    OR (l.size_bytes, l.modified_at, l.etag) IS DISTINCT FROM (s.size_bytes, s.modified_at, s.etag)
 ORDER BY s.source_id, s.uri_key;

-- name: listed_count
SELECT count(*) AS listed FROM listed WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s;

-- name: vanished
-- What completely listed sources no longer list; `elsewhere` when another source still does.
CREATE TEMPORARY TABLE IF NOT EXISTS vanished (
    document_id uuid, kind text, content_hash bytea, uri text, elsewhere boolean
);

-- name: clear_vanished
TRUNCATE vanished;

-- name: staged_count
SELECT count(DISTINCT uri_key) AS documents FROM staged;

-- name: stage_unlisted
CREATE TEMPORARY TABLE IF NOT EXISTS unlisted (source_id uuid, document_id uuid);

-- name: clear_unlisted
TRUNCATE unlisted;

-- name: find_unlisted
-- What completely listed sources listed before and do not list now: found once, as every listed document is looked at.
INSERT INTO unlisted
SELECT l.source_id, l.document_id
  FROM listed l
  JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = l.document_id
 WHERE l.tenant_id = %(tenant_id)s
   AND l.source_id = ANY(%(complete)s)
   AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.source_id = l.source_id AND s.uri_key = d.uri_key);

-- name: find_vanished
-- Only what is still recorded as listed: a source may have been removed meanwhile.
WITH unlisting AS (
    DELETE FROM listed l
     USING unlisted u
     WHERE l.tenant_id = %(tenant_id)s AND l.source_id = u.source_id AND l.document_id = u.document_id
    RETURNING l.document_id
)
INSERT INTO vanished
SELECT DISTINCT ON (d.document_id)
       d.document_id, d.kind, d.content_hash, d.uri,
       EXISTS (SELECT 1 FROM listed l
                WHERE l.tenant_id = %(tenant_id)s AND l.document_id = u.document_id
                  AND NOT EXISTS (SELECT 1 FROM unlisted o
                                   WHERE o.source_id = l.source_id AND o.document_id = l.document_id))
       OR EXISTS (SELECT 1 FROM staged s WHERE s.uri_key = d.uri_key)
  FROM unlisting u
 CROSS JOIN LATERAL (SELECT * FROM document
                      WHERE tenant_id = %(tenant_id)s AND document_id = u.document_id
                     OFFSET 0) AS d;

-- name: vanished_sizes
-- Asked before anything is recorded: whether anything has vanished, and what new items it could be paired with. `hashed`
-- says that the content of one of them is known.
SELECT d.kind, d.size_bytes, bool_or(d.content_hash IS NOT NULL) AS hashed
  FROM unlisted u
 CROSS JOIN LATERAL (SELECT kind, size_bytes, content_hash FROM document
                      WHERE tenant_id = %(tenant_id)s AND document_id = u.document_id
                     OFFSET 0) AS d
 GROUP BY d.kind, d.size_bytes
 ORDER BY d.kind, d.size_bytes;

-- name: to_hash
-- Items whose content decides what happened: changed ones, those of a document that only other sources listed before,
-- and new ones that may be a vanished document renamed.
SELECT f.source_id, f.uri, f.uri_key
  FROM difference f
 WHERE (f.source_id, f.uri_key) > (%(after_source)s::uuid, %(after_key)s::bytea)
   AND (f.document_id IS NOT NULL AND f.had_hash IS NOT NULL
        OR f.document_id IS NULL
           AND EXISTS (SELECT 1 FROM unnest(%(kinds)s::text[], %(sizes)s::bigint[]) AS gone (kind, size_bytes)
                        WHERE gone.kind = f.kind
                          AND (gone.size_bytes = f.size_bytes OR gone.size_bytes IS NULL OR f.size_bytes IS NULL)))
 ORDER BY f.source_id, f.uri_key
 LIMIT %(most)s;

-- name: set_hashes
UPDATE difference f
   SET content_hash = read.content_hash
  FROM unnest(%(source_ids)s::uuid[], %(uri_keys)s::bytea[], %(content_hashes)s::bytea[])
       AS read (source_id, uri_key, content_hash)
 WHERE f.source_id = read.source_id AND f.uri_key = read.uri_key;

-- name: rename
-- Pairs each vanished document with a new URI of equal content and kind, a file of the same name first.
WITH gone AS (
    SELECT v.*, row_number() OVER (PARTITION BY kind, content_hash
                                   ORDER BY substring(uri FROM '[^/]*$'), uri) AS place
      FROM vanished v
     WHERE content_hash IS NOT NULL AND NOT elsewhere
), fresh AS (
    SELECT f.*, row_number() OVER (PARTITION BY kind, content_hash
                                   ORDER BY substring(uri FROM '[^/]*$'), uri) AS place
      FROM (SELECT DISTINCT ON (uri_key) * FROM difference
             WHERE document_id IS NULL AND content_hash IS NOT NULL ORDER BY uri_key, source_id) f
), renamed AS (
    UPDATE document d
       SET uri = fresh.uri, uri_key = fresh.uri_key, source_id = fresh.source_id, size_bytes = fresh.size_bytes
      FROM gone
      JOIN fresh USING (kind, content_hash, place)
     WHERE d.tenant_id = %(tenant_id)s AND d.document_id = gone.document_id
    RETURNING d.document_id, d.uri_key
), found AS (
    UPDATE difference f SET document_id = renamed.document_id FROM renamed WHERE f.uri_key = renamed.uri_key
)
DELETE FROM vanished v USING renamed WHERE v.document_id = renamed.document_id
RETURNING v.document_id;

-- name: come_back
-- A URI that was removed once: the document it was. A forgotten one stays forgotten.
WITH back AS (
    SELECT DISTINCT ON (f.uri_key) f.uri_key, f.source_id, f.kind, d.document_id
      FROM difference f
      JOIN document d ON d.tenant_id = %(tenant_id)s AND d.uri_key = f.uri_key AND d.removed_at IS NOT NULL
     WHERE f.document_id IS NULL
     ORDER BY f.uri_key, d.removed_at DESC, f.source_id
), returned AS (
    UPDATE document d
       SET removed_at = NULL, source_id = back.source_id, kind = back.kind,
           pending = CASE WHEN d.forgotten_at IS NULL THEN 'content' END,
           content_hash = CASE WHEN d.forgotten_at IS NOT NULL THEN d.content_hash END
      FROM back
     WHERE d.tenant_id = %(tenant_id)s AND d.document_id = back.document_id
    RETURNING d.document_id, d.uri_key, d.forgotten_at
), cleared AS (
    DELETE FROM failure x
     USING returned r
     WHERE x.tenant_id = %(tenant_id)s AND x.stage = 'read' AND x.key = r.document_id::text
), found AS (
    UPDATE difference f SET document_id = returned.document_id FROM returned WHERE f.uri_key = returned.uri_key
)
SELECT count(*) FILTER (WHERE forgotten_at IS NULL) AS documents FROM returned;

-- name: add_documents
WITH added AS (
    INSERT INTO document (tenant_id, source_id, uri, uri_key, kind, size_bytes, pending)
    SELECT DISTINCT ON (uri_key) %(tenant_id)s, source_id, uri, uri_key, kind, size_bytes, 'content'
      FROM difference
     WHERE document_id IS NULL
     ORDER BY uri_key, source_id
    RETURNING document_id, uri_key
), found AS (
    UPDATE difference f SET document_id = added.document_id FROM added WHERE f.uri_key = added.uri_key
)
SELECT count(*) AS documents FROM added;

-- name: change_documents
-- Content that differs from what was last read, or could not be read to tell, or is forced.
WITH changed AS (
    SELECT DISTINCT ON (f.document_id) f.*
      FROM difference f
     WHERE NOT f.forgotten
       AND (f.known AND (%(force)s OR f.had_hash IS NULL OR f.content_hash IS DISTINCT FROM f.had_hash
                         OR (SELECT d.kind FROM document d
                              WHERE d.tenant_id = %(tenant_id)s AND d.document_id = f.document_id) <> f.kind)
            OR NOT f.known AND f.content_hash <> f.had_hash)
     ORDER BY f.document_id, f.source_id
), cleared AS (
    DELETE FROM failure x
     USING changed c
     WHERE x.tenant_id = %(tenant_id)s AND x.stage = 'read' AND x.key = c.document_id::text
), updated AS (
    UPDATE document d
       SET pending = 'content', content_hash = c.content_hash, kind = c.kind, size_bytes = c.size_bytes
      FROM changed c
     WHERE d.tenant_id = %(tenant_id)s
       AND d.document_id = c.document_id
       AND d.document_id = ANY(ARRAY(SELECT document_id FROM changed))
)
SELECT count(*) FILTER (WHERE content_hash IS DISTINCT FROM had_hash OR content_hash IS NULL) AS documents FROM changed;

-- name: note_forgotten
-- What a forgotten document holds now, by which it is known when it is renamed.
UPDATE document d
   SET content_hash = f.content_hash, size_bytes = f.size_bytes
  FROM difference f
 WHERE d.tenant_id = %(tenant_id)s
   AND d.document_id = f.document_id
   AND f.forgotten
   AND f.content_hash <> f.had_hash;

-- name: offer_refusals
SELECT offer_again(%(tenant_id)s, NULL);

-- name: record_listed
INSERT INTO listed (tenant_id, source_id, document_id, size_bytes, modified_at, etag)
SELECT %(tenant_id)s, source_id, document_id, size_bytes, modified_at, etag
  FROM difference
ON CONFLICT (tenant_id, source_id, document_id) DO UPDATE
   SET size_bytes = EXCLUDED.size_bytes, modified_at = EXCLUDED.modified_at, etag = EXCLUDED.etag
 WHERE (listed.size_bytes, listed.modified_at, listed.etag)
       IS DISTINCT FROM (EXCLUDED.size_bytes, EXCLUDED.modified_at, EXCLUDED.etag);

-- name: vanished_documents
SELECT document_id, elsewhere FROM vanished ORDER BY document_id;
