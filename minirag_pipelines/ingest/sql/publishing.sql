-- name: publishable
-- Documents whose version is cut and has every text settled in the live generation; `refused` of its chunks are not in the
-- collection, and never will be.
SELECT *
  FROM (SELECT d.document_id, d.version_id, k.chunks,
               refused_chunks(%(tenant_id)s, %(generation)s, d.version_id) AS refused
          FROM document d
          JOIN chunking k ON k.tenant_id = %(tenant_id)s AND k.version_id = d.version_id AND k.chunker = %(chunker)s
         WHERE d.tenant_id = %(tenant_id)s
           AND d.pending = 'publication'
           AND d.document_id > %(after)s
           AND d.removed_at IS NULL
           AND d.forgotten_at IS NULL
           AND (SELECT true FROM failure f
                 WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'publish' AND f.key = d.version_id::text
                   AND f.maker = %(model)s || '/' || %(chunker)s
                 LIMIT 1) IS NULL) AS cut
 WHERE refused IS NOT NULL
 ORDER BY document_id
 LIMIT %(most)s;

-- name: hold_back
-- Made by model and chunker: cut otherwise, another share may be refused.
INSERT INTO failure (tenant_id, stage, key, maker, code, reason, permanent, attempts)
SELECT %(tenant_id)s, 'publish', version_id::text, %(model)s || '/' || %(chunker)s, 'refused',
       format('The embedding model refuses %%s of its %%s passages.', refused, chunks), true, 1
  FROM unnest(%(version_ids)s::uuid[], %(refused)s::bigint[], %(chunks)s::integer[]) AS held (version_id, refused, chunks)
ON CONFLICT (tenant_id, stage, key, maker) DO NOTHING;

-- name: lock_documents
-- Under their row locks: those still to be published as they were found. Looked up one by one, as in `displace`.
SELECT d.document_id, d.version_id, p.version_id AS displaced, coalesce(p.chunks, 0) AS displaced_chunks
  FROM document d
  LEFT JOIN LATERAL (SELECT version_id, chunks FROM published
                      WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND document_id = d.document_id
                     OFFSET 0) AS p ON true
  JOIN unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[]) AS found (document_id, version_id)
       ON found.document_id = d.document_id
 WHERE d.tenant_id = %(tenant_id)s
   AND d.document_id = ANY(%(document_ids)s)
   AND coalesce(d.removed_at, d.forgotten_at) IS NULL
   AND (NOT %(live)s OR d.pending = 'publication' AND d.version_id = found.version_id)
 ORDER BY d.document_id
   FOR UPDATE OF d;

-- name: publish
INSERT INTO published (tenant_id, generation, document_id, version_id, chunks, run_id)
SELECT %(tenant_id)s, %(generation)s, document_id, version_id, chunks, %(run_id)s
  FROM unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[], %(chunks)s::integer[])
       AS ready (document_id, version_id, chunks)
ON CONFLICT (tenant_id, generation, document_id) DO UPDATE
   SET version_id = EXCLUDED.version_id, chunks = EXCLUDED.chunks, run_id = EXCLUDED.run_id, published_at = now();

-- name: settle_documents
UPDATE document SET pending = NULL WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s);

-- name: count_in
UPDATE generation
   SET documents = documents + %(documents)s, chunks = chunks + %(chunks)s, texts = texts + %(texts)s,
       data_version = data_version + 1,
       changed_at = CASE WHEN %(documents)s <> 0 OR %(chunks)s <> 0 THEN now() ELSE changed_at END
 WHERE tenant_id = %(tenant_id)s AND number = %(generation)s;

-- name: displace
-- Texts of versions that were displaced here, and that nothing published or pending in this generation needs. One that is
-- being built also needs what is published in the live one. Looked up one by one: joined, a table that has never been
-- analysed is read as a whole. The time is not the transaction's start: searches go on meanwhile that may need them.
WITH gone AS (
    SELECT DISTINCT c.text_hash
      FROM chunk c
     WHERE c.tenant_id = %(tenant_id)s AND c.version_id = ANY(%(version_ids)s) AND c.chunker = %(chunker)s
), needing AS (
    SELECT g.number
      FROM generation g
     WHERE g.tenant_id = %(tenant_id)s
       AND (g.number = %(generation)s
            OR g.state = 'live' AND EXISTS (SELECT 1 FROM generation b
                                             WHERE b.tenant_id = %(tenant_id)s AND b.number = %(generation)s
                                               AND b.state = 'building'))
), unneeded AS (
    SELECT i.text_hash, i.state
      FROM gone
     CROSS JOIN LATERAL (SELECT text_hash, state FROM indexed
                          WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s
                            AND text_hash = gone.text_hash
                         OFFSET 0) AS i
     WHERE i.state <> 'leaving'
       AND (SELECT true FROM chunk c
             WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = i.text_hash AND c.chunker = %(chunker)s
               AND ((SELECT true FROM published p
                      WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s
                        AND p.version_id = c.version_id
                      LIMIT 1)
                    OR (SELECT true
                          FROM (SELECT pending, removed_at, forgotten_at FROM document
                                 WHERE tenant_id = %(tenant_id)s AND version_id = c.version_id
                                OFFSET 0) AS d
                         WHERE d.pending = 'publication' AND d.removed_at IS NULL AND d.forgotten_at IS NULL
                         LIMIT 1))
             LIMIT 1) IS NULL
), marked AS (
    UPDATE indexed
       SET state = 'leaving', changed_at = clock_timestamp()
     WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s
       AND text_hash = ANY(ARRAY(SELECT text_hash FROM unneeded))
    RETURNING text_hash
)
SELECT u.state AS was
  FROM unneeded u
  JOIN marked m ON m.text_hash = u.text_hash;

-- name: remove_documents
-- Said as `removed_at IS NULL`, it would be read from an index of all live documents where none was ever analysed.
WITH removed AS (
    UPDATE document
       SET removed_at = now(), pending = NULL
     WHERE tenant_id = %(tenant_id)s
       AND document_id = ANY(%(document_ids)s)
       AND coalesce(removed_at, 'infinity') = 'infinity'
    RETURNING document_id, version_id
), leaving AS (
    INSERT INTO left_version (tenant_id, document_id, version_id)
    SELECT %(tenant_id)s, document_id, version_id FROM removed WHERE version_id IS NOT NULL
    ON CONFLICT (tenant_id, document_id, version_id) DO UPDATE SET left_at = now()
)
SELECT document_id, version_id FROM removed;

-- name: unpublish
DELETE FROM published
 WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s)
RETURNING generation, document_id, version_id, chunks;

-- name: due_to_leave
SELECT text_hash
  FROM indexed
 WHERE tenant_id = %(tenant_id)s
   AND generation = %(generation)s
   AND state = 'leaving'
   AND changed_at < now() - make_interval(secs => %(after_s)s)
 ORDER BY changed_at, text_hash
 LIMIT %(most)s;

-- name: forget_texts
-- Only what is still leaving: a text that was wanted again meanwhile stays.
DELETE FROM indexed
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'leaving'
   AND text_hash = ANY(%(text_hashes)s);

-- name: retired_due
-- No search can be under way in one that was never live.
SELECT number
  FROM generation
 WHERE tenant_id = %(tenant_id)s
   AND state = 'retired'
   AND (live_at IS NULL OR retired_at < now() - make_interval(secs => %(after_s)s))
 ORDER BY number;

-- name: stop_sending
UPDATE indexed SET state = 'leaving', changed_at = clock_timestamp()
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'sending';

-- name: remove_source
UPDATE source SET removed_at = now()
 WHERE tenant_id = %(tenant_id)s AND name = %(name)s AND removed_at IS NULL
RETURNING source_id;

-- name: unlist_source
-- `elsewhere` says that another source lists the document too.
WITH unlisted AS (
    DELETE FROM listed WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s RETURNING document_id
)
SELECT u.document_id,
       EXISTS (SELECT 1 FROM listed l
                WHERE l.tenant_id = %(tenant_id)s AND l.document_id = u.document_id
                  AND l.source_id <> %(source_id)s) AS elsewhere
  FROM unlisted u
 ORDER BY u.document_id;

-- name: move_readers
-- A document is read through a source that lists it.
UPDATE document d
   SET source_id = (SELECT l.source_id FROM listed l
                     WHERE l.tenant_id = %(tenant_id)s AND l.document_id = d.document_id
                     ORDER BY l.source_id LIMIT 1)
 WHERE d.tenant_id = %(tenant_id)s
   AND d.document_id = ANY(%(document_ids)s)
   AND NOT EXISTS (SELECT 1 FROM listed l
                    WHERE l.tenant_id = %(tenant_id)s AND l.document_id = d.document_id AND l.source_id = d.source_id)
   AND EXISTS (SELECT 1 FROM listed l WHERE l.tenant_id = %(tenant_id)s AND l.document_id = d.document_id);
