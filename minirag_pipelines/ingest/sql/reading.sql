-- name: to_read
-- Pending content that no failure holds back: none of reading it, none of parsing these bytes with today's parser. What
-- was too large is held back by the limits of then only. It is read through its own source, or through another one of
-- these that lists it. Failures are looked up one by one: joined, a table that has never been analysed is read as a whole.
SELECT d.document_id, readers.source_id, d.uri, d.kind, d.content_hash, d.version_id, d.size_bytes
  FROM document d
 CROSS JOIN LATERAL (SELECT l.source_id
                       FROM (SELECT d.source_id, 0 AS place
                              UNION ALL
                             SELECT source_id, 1 FROM listed
                              WHERE tenant_id = %(tenant_id)s AND document_id = d.document_id) AS l
                      WHERE l.source_id = ANY(%(source_ids)s)
                      ORDER BY l.place, l.source_id
                      LIMIT 1) AS readers
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'content'
   AND d.document_id > %(after)s
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND (SELECT true FROM failure f
         WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'read' AND f.key = d.document_id::text
           AND f.maker = CASE f.code WHEN 'too_large' THEN %(read_limits)s ELSE '' END
           AND (f.permanent OR f.next_at > now())
         LIMIT 1) IS NULL
   AND (SELECT true FROM failure f
         WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'parse'
           AND f.key = encode(d.content_hash, 'hex') || ':' || d.kind
           AND f.maker = (%(parsers)s::jsonb ->> d.kind)
                         || CASE f.code WHEN 'too_large' THEN %(parse_limits)s ELSE '' END
           AND (f.permanent OR f.next_at > now())
         LIMIT 1) IS NULL
 ORDER BY d.document_id
 LIMIT %(most)s;

-- name: kinds_to_read
SELECT kind, count(*) AS documents
  FROM document
 WHERE tenant_id = %(tenant_id)s AND pending = 'content' AND removed_at IS NULL AND forgotten_at IS NULL
 GROUP BY kind
 ORDER BY kind;

-- name: known_versions
SELECT version_id FROM version WHERE tenant_id = %(tenant_id)s AND version_id = ANY(%(version_ids)s) ORDER BY version_id;

-- name: standing
-- Whether content has been parsed already, or refused by today's parser, for good or until later: another document may
-- hold the same bytes.
SELECT EXISTS (SELECT 1 FROM version WHERE tenant_id = %(tenant_id)s AND version_id = %(version_id)s) AS parsed,
       EXISTS (SELECT 1 FROM failure f
                WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'parse' AND f.key = %(key)s
                  AND f.maker = %(parser)s || CASE f.code WHEN 'too_large' THEN %(parse_limits)s ELSE '' END
                  AND (f.permanent OR f.next_at > now())) AS refused;

-- name: add_version
INSERT INTO version (tenant_id, version_id, content_hash, kind, parser, title, text, elements, pages, warnings,
                     size_bytes, run_id)
VALUES (%(tenant_id)s, %(version_id)s, %(content_hash)s, %(kind)s, %(parser)s, %(title)s, %(text)s, %(elements)s,
        %(pages)s, %(warnings)s, %(size_bytes)s, %(run_id)s)
ON CONFLICT (tenant_id, version_id) DO NOTHING;

-- name: point
-- The document's content is this version. Nothing is pending when that is published already, with every text settled.
WITH pointed AS (
    UPDATE document d
       SET content_hash = read.content_hash,
           version_id = read.version_id,
           size_bytes = read.size_bytes,
           pending = CASE WHEN EXISTS (SELECT 1 FROM published p
                                         JOIN generation g ON g.tenant_id = %(tenant_id)s AND g.state = 'live'
                                                          AND p.generation = g.number
                                        WHERE p.tenant_id = %(tenant_id)s AND p.document_id = d.document_id
                                          AND p.version_id = read.version_id
                                          AND refused_chunks(%(tenant_id)s, g.number, read.version_id)
                                              IS NOT NULL)
                          THEN NULL ELSE 'publication' END
      FROM unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[], %(content_hashes)s::bytea[], %(sizes)s::bigint[])
           AS read (document_id, version_id, content_hash, size_bytes)
      JOIN document old ON old.tenant_id = %(tenant_id)s AND old.document_id = read.document_id
     WHERE d.tenant_id = %(tenant_id)s
       AND d.document_id = read.document_id
       AND d.pending = 'content'
    RETURNING d.document_id, old.version_id AS displaced, d.version_id
), leaving AS (
    INSERT INTO left_version (tenant_id, document_id, version_id)
    SELECT %(tenant_id)s, document_id, displaced FROM pointed WHERE displaced <> version_id
    ON CONFLICT (tenant_id, document_id, version_id) DO UPDATE SET left_at = now()
)
SELECT document_id, displaced, version_id FROM pointed;

-- name: note_content
-- What was read, although nothing could be made of it.
UPDATE document SET content_hash = %(content_hash)s, size_bytes = %(size_bytes)s
 WHERE tenant_id = %(tenant_id)s AND document_id = %(document_id)s AND pending = 'content';

-- name: add_failure
-- The next attempt waits twice as long as the last, from a minute to a day, spread by a fifth. What another parser, or
-- other limits, said of it is no longer true.
WITH superseded AS (
    DELETE FROM failure
     WHERE tenant_id = %(tenant_id)s AND stage = %(stage)s AND key = %(key)s AND maker <> %(maker)s
)
INSERT INTO failure (tenant_id, stage, key, maker, code, reason, permanent, attempts, next_at)
VALUES (%(tenant_id)s, %(stage)s, %(key)s, %(maker)s, %(code)s, %(reason)s, %(permanent)s, 1,
        CASE WHEN NOT %(permanent)s THEN now() + make_interval(secs => 60 * (0.8 + 0.4 * random())) END)
ON CONFLICT (tenant_id, stage, key, maker) DO UPDATE
   SET code = EXCLUDED.code,
       reason = EXCLUDED.reason,
       permanent = EXCLUDED.permanent,
       attempts = failure.attempts + 1,
       last_at = now(),
       next_at = CASE WHEN NOT EXCLUDED.permanent
                      THEN now() + make_interval(secs => least(60 * 2 ^ least(failure.attempts, 12), 86400)
                                                         * (0.8 + 0.4 * random())) END;

-- name: clear_failures
DELETE FROM failure
 WHERE tenant_id = %(tenant_id)s AND stage = %(stage)s AND key = ANY(%(keys)s);

-- name: retry_failures
DELETE FROM failure WHERE tenant_id = %(tenant_id)s AND stage IN ('read', 'parse');

-- name: quarantined
SELECT code, count(*) AS documents
  FROM document_failure
 WHERE tenant_id = %(tenant_id)s
 GROUP BY code
 ORDER BY documents DESC, code;
